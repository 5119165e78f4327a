#include <stddef.h>

/* Reads the first line of the file at path; what is not readable gives instead. */
void conf_read(const char *path, char *to, size_t size, const char *instead);
