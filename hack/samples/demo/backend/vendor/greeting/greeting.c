#include "greeting.h"

void greet(FILE *to, const char *word, const char *whom)
{
	fprintf(to, "%s, %s.\n", word, whom);
}
