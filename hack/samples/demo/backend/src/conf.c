#include "conf.h"

#include <stdio.h>
#include <string.h>

void conf_read(const char *path, char *to, size_t size, const char *instead)
{
	FILE *f = fopen(path, "r");

	if (!f || !fgets(to, (int)size, f))
		snprintf(to, size, "%s", instead);
	if (f)
		fclose(f);
	to[strcspn(to, "\n")] = 0;
}
