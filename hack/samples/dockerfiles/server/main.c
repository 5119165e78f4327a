#include <stdio.h>
#include <stdlib.h>

int main(void) {
	const char *g = getenv("GREETING");
	puts(g ? g : "nothing to say");
	return 0;
}
