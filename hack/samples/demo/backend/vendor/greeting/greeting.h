#include <stdio.h>

void greet(FILE *to, const char *word, const char *whom);
