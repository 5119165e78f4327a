<?php
namespace App\Controller;
final class ShopController {}
