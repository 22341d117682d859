/* What the parts of lg, the load generator, share.
 *
 * The measured process is the proxy, so everything here is about staying out of its way:
 * one thread, no allocation and no copy on the path (data is discarded inside the kernel),
 * source addresses and destination ports that rotate, so that TIME_WAIT never stops a run.
 */
#ifndef LG_H
#define LG_H

#include <netinet/in.h>
#include <stdint.h>

enum {
	BLOCK = 256 * 1024, /* bytes offered in one send() of a bulk stream */
	HELLO = 16,         /* bytes that tell the origin what a connection is for */
	MESSAGE = 1024,     /* bytes of a request and of its answer, head of HTTP not counted */
	PORTS = 16,         /* consecutive ports that the origin listens on */
};

/* Bytes that arrived at the origin. The generator of an upload reads them from its own
 * process, through a file that both map. */
struct counters {
	volatile uint64_t received;
};

extern struct counters *counters;
extern char block[BLOCK];

double now(void);                                    /* monotonic time in seconds */
void die(const char *what);                          /* perror and exit 1 */
void option(int fd, int level, int name, int value); /* setsockopt of an int */
struct sockaddr_in loopback(int port);               /* 127.0.0.1 and this port */

void use(const char *protocol, int proxy_port, int origin_port);
int bulk(int streams, int up, double seconds, int rate, int mss);
int rate(int concurrency, double seconds, int pace);
int idle(int count);
int origin(int base_port, int mss);
int watch(int port, int events, int followers, double seconds);

#endif
