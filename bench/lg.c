/* lg, the load generator: drives a proxy on loopback and prints one JSON line.
 *
 *   lg origin BASEPORT MSS                               what the proxies connect to
 *   lg bulk PROTO PORT DPORT STREAMS down|up SECONDS [RATE [MSS]]
 *   lg rate PROTO PORT DPORT CONCURRENCY SECONDS [PACE]  connections, one after the other
 *   lg idle PROTO PORT DPORT COUNT                       hold tunnels until stdin ends
 *   lg watch PORT COUNT SECONDS [FOLLOWERS]              readers of events, and of the log
 *
 * PROTO is how the proxy at PORT is asked: connect, socks5, get (plain HTTP), or tcp, a relay
 * with a fixed destination; `tcp 0` is no proxy at all. DPORT is the origin's base port, RATE
 * bytes per second and stream, MSS bytes (0 = no limit), PACE connections per second. The
 * file $LG_COUNTERS holds the counters of the origin.
 */
#define _GNU_SOURCE
#include "lg.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct counters *counters;
char block[BLOCK];

double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec * 1e-9;
}

void die(const char *what)
{
	perror(what);
	exit(1);
}

void option(int fd, int level, int name, int value)
{
	setsockopt(fd, level, name, &value, sizeof value);
}

struct sockaddr_in loopback(int port)
{
	return (struct sockaddr_in){.sin_family = AF_INET,
				    .sin_port = htons(port),
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static void map_counters(void)
{
	const char *path = getenv("LG_COUNTERS");
	int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;

	if (fd < 0 || ftruncate(fd, sizeof *counters))
		die("LG_COUNTERS");
	counters = mmap(NULL, sizeof *counters, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (counters == MAP_FAILED)
		die("mmap");
	close(fd);
}

int main(int argc, char **argv)
{
	const char *command = argc > 1 ? argv[1] : "";
	struct rlimit files;

	signal(SIGPIPE, SIG_IGN);
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	if (!strcmp(command, "watch") && argc >= 5)
		return watch(atoi(argv[2]), atoi(argv[3]), argc > 5 ? atoi(argv[5]) : 0,
			     atof(argv[4]));

	map_counters();
	memset(block, 'x', BLOCK);
	block[0] = 'E';
	if (!strcmp(command, "origin") && argc == 4)
		return origin(atoi(argv[2]), atoi(argv[3]));
	if (argc < 6) {
		fputs("usage: lg origin|bulk|rate|idle|watch ..., see lg.c\n", stderr);
		return 2;
	}
	use(argv[2], atoi(argv[3]), atoi(argv[4]));
	if (!strcmp(command, "bulk") && argc >= 8)
		return bulk(atoi(argv[5]), !strcmp(argv[6], "up"), atof(argv[7]),
			    argc > 8 ? atoi(argv[8]) : 0, argc > 9 ? atoi(argv[9]) : 0);
	if (!strcmp(command, "rate") && argc >= 7)
		return rate(atoi(argv[5]), atof(argv[6]), argc > 7 ? atoi(argv[7]) : 0);
	if (!strcmp(command, "idle") && argc == 6)
		return idle(atoi(argv[5]));
	fprintf(stderr, "lg %s: wrong arguments\n", command);
	return 2;
}
