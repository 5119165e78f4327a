#!/bin/sh
echo nameless
