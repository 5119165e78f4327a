/* Greets its argument in the words of a configuration file. */
#include <stdio.h>
#include <stdlib.h>

#include "conf.h"
#include "greeting.h"

int main(int argc, char **argv)
{
	char word[64];
	const char *path = getenv("HELLO_CONF");

	conf_read(path ? path : "/etc/hello.conf", word, sizeof word, "Hello");
	greet(stdout, word, argc > 1 ? argv[1] : "world");
	return 0;
}
