#include <stdio.h>

int main(void) {
	puts("@WORD@");
	return 0;
}
