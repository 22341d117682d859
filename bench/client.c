/* The clients: connections through a proxy, for bulk, rate and idle (see lg.c). */
#define _GNU_SOURCE
#include "lg.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 512, SAMPLES = 4000000, BURST = 16, STUCK = 3 /* seconds */ };
enum protocol { TCP, CONNECT, SOCKS5, GET };
enum state { CONNECTING, GREETING, REQUESTED, WAITING, DONE };

struct client {
	int fd, port; /* port: of the origin, as asked of the proxy */
	enum state state;
	int fill; /* bytes in data */
	double since;
	char data[4096];
};

static enum protocol protocol;
static int proxy_port, origin_port, segment, rotate, epoll;

/* How the connections of this run are made: by which protocol, through the proxy at which
 * port (0 = none), to the origin at which base port. */
void use(const char *protocol_name, int proxy, int target)
{
	static const char *const names[] = {"tcp", "connect", "socks5", "get"};
	unsigned i = 0;

	while (i < sizeof names / sizeof *names && strcmp(protocol_name, names[i]))
		i++;
	if (i == sizeof names / sizeof *names) {
		fprintf(stderr, "no such protocol: %s\n", protocol_name);
		exit(2);
	}
	protocol = i;
	proxy_port = proxy;
	origin_port = target;
	epoll = epoll_create1(0);
}

static double cpu(void)
{
	struct timespec time;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
	return time.tv_sec + time.tv_nsec * 1e-9;
}

static void interest(struct client *client, int operation, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = client};

	if (epoll_ctl(epoll, operation, client->fd, &event))
		die("epoll_ctl");
}

/* Open a connection to the proxy. */
static void begin(struct client *client)
{
	static unsigned ports, sources;
	struct sockaddr_in source = loopback(0), there;

	client->port = origin_port + ports++ % PORTS;
	client->state = CONNECTING;
	client->fill = 0;
	client->since = now();
	client->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (client->fd < 0)
		die("socket");
	option(client->fd, IPPROTO_TCP, TCP_NODELAY, 1);
	if (segment)
		option(client->fd, IPPROTO_TCP, TCP_MAXSEG, segment);
	if (rotate) {
		option(client->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
		source.sin_addr.s_addr = htonl(0x7f000101u + sources++ % 200);
		if (bind(client->fd, (struct sockaddr *)&source, sizeof source))
			die("bind");
	}
	there = loopback(proxy_port ? proxy_port : client->port);
	if (connect(client->fd, (struct sockaddr *)&there, sizeof there) && errno != EINPROGRESS)
		die("connect");
	interest(client, EPOLL_CTL_ADD, EPOLLOUT);
}

static int put(struct client *client, const void *data, int length)
{
	return send(client->fd, data, length, MSG_NOSIGNAL) == length ? 0 : -1;
}

/* The connection to the proxy stands: ask it for the origin. */
static int ask(struct client *client)
{
	char head[128];
	int length;

	if (protocol == TCP || protocol == GET)
		return 1;
	interest(client, EPOLL_CTL_MOD, EPOLLIN);
	if (protocol == SOCKS5) {
		client->state = GREETING;
		return put(client, "\5\1\0", 3);
	}
	client->state = REQUESTED;
	length = sprintf(head, "CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n",
			 client->port, client->port);
	return put(client, head, length);
}

/* The proxy said something before the tunnel stands. */
static int answered(struct client *client)
{
	const unsigned char *data = (unsigned char *)client->data;
	ssize_t got = recv(client->fd, client->data + client->fill,
			   sizeof client->data - client->fill, 0);

	if (got <= 0)
		return got < 0 && errno == EAGAIN ? 0 : -1;
	client->fill += got;
	if (protocol == CONNECT) {
		if (!memmem(data, client->fill, "\r\n\r\n", 4))
			return 0;
		return memcmp(data + 8, " 200", 4) ? -1 : 1;
	}
	if (client->state == GREETING) {
		unsigned char request[10] = {5, 1, 0, 1, 127, 0, 0, 1};

		if (client->fill < 2)
			return 0;
		if (data[0] != 5 || data[1] != 0)
			return -1;
		request[8] = client->port >> 8;
		request[9] = client->port & 255;
		client->state = REQUESTED;
		client->fill = 0;
		return put(client, request, sizeof request);
	}
	if (client->fill < 5)
		return 0;
	if (data[1])
		return -1;
	return client->fill >= (data[3] == 1 ? 10 : data[3] == 4 ? 22 : 7 + data[4]);
}

/* Go on with a connection that is not in use yet: 1 when it is ready for payload, 0 when
 * the proxy has to say more, -1 when it failed. */
static int advance(struct client *client)
{
	int error = 0, ready;
	socklen_t size = sizeof error;

	if (client->state == CONNECTING) {
		getsockopt(client->fd, SOL_SOCKET, SO_ERROR, &error, &size);
		ready = error ? -1 : ask(client);
	} else {
		ready = answered(client);
	}
	if (ready > 0) {
		client->fill = 0;
		client->state = WAITING;
	}
	return ready;
}

/* The first payload: 1024 bytes that the origin answers with as many. */
static int request(struct client *client)
{
	char head[256];
	int length;

	interest(client, EPOLL_CTL_MOD, EPOLLIN);
	if (protocol != GET)
		return put(client, block, MESSAGE);
	length = sprintf(head, "GET http://127.0.0.1:%d/1k HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
			       "User-Agent: lg\r\nAccept: */*\r\n\r\n", client->port, client->port);
	return put(client, head, length);
}

/* Read the answer to request(): 1 when complete, 0 when more must come, -1 when it is bad. */
static int response(struct client *client)
{
	ssize_t got = recv(client->fd, client->data + client->fill,
			   sizeof client->data - client->fill, 0);
	int body = client->fill + got;

	if (got <= 0)
		return got < 0 && errno == EAGAIN ? 0 : -1;
	client->fill += got;
	if (protocol == GET) {
		char *end = memmem(client->data, client->fill, "\r\n\r\n", 4);

		if (!end)
			return 0;
		if (memcmp(client->data + 8, " 200", 4))
			return -1;
		body = client->fill - (end + 4 - client->data);
	}
	return body >= MESSAGE;
}

/* ---- bulk: a number of streams for some seconds, after 0.3 s of warm-up ---- */

static void announce(struct client *client, int up, int rate)
{
	char hello[HELLO + 1];

	snprintf(hello, sizeof hello, "%c%014d.", up ? 'D' : 'S', rate);
	if (up && rate)
		option(client->fd, SOL_SOCKET, SO_MAX_PACING_RATE, rate);
	if (put(client, hello, HELLO))
		die("hello");
	interest(client, EPOLL_CTL_MOD, up ? EPOLLOUT : EPOLLIN);
}

static uint64_t move(struct client *client, int up)
{
	ssize_t moved = up ? send(client->fd, block, BLOCK, MSG_NOSIGNAL)
			   : recv(client->fd, NULL, 16 << 20, MSG_TRUNC);

	if (moved == 0 || (moved < 0 && errno != EAGAIN))
		die(up ? "send" : "recv");
	return moved > 0 ? moved : 0;
}

/* up: toward the origin; rate: bytes per second and stream, mss: largest segment in bytes of
 * the client's connections, 0 for no limit. */
int bulk(int streams, int up, double seconds, int rate, int mss)
{
	struct client *clients = calloc(streams, sizeof *clients);
	struct epoll_event events[EVENTS];
	uint64_t down = 0, before = counters->received, first = 0, last;
	double start = 0, end = now() + 10, cpu_start = 0, used;
	int ready = 0, measuring = 0;

	segment = mss;
	for (int i = 0; i < streams; i++)
		begin(&clients[i]);
	for (double time = now(); time < end; time = now()) {
		if (ready == streams && !start) {
			start = time + 0.3;
			end = start + seconds;
		}
		if (start && !measuring && time >= start) {
			measuring = 1;
			start = time;
			end = time + seconds;
			first = up ? counters->received - before : down;
			cpu_start = cpu();
		}
		int count = epoll_wait(epoll, events, EVENTS, 50);

		for (int i = 0; i < count; i++) {
			struct client *client = events[i].data.ptr;

			if (client->state == WAITING) {
				uint64_t moved = move(client, up);

				down += up ? 0 : moved;
				continue;
			}
			switch (advance(client)) {
			case -1:
				die("handshake");
				break;
			case 1:
				ready++;
				announce(client, up, rate);
			}
		}
	}
	double elapsed = now() - start;

	last = up ? counters->received - before : down;
	used = cpu() - cpu_start;
	if (ready < streams) {
		fprintf(stderr, "only %d of %d streams were ready\n", ready, streams);
		return 1;
	}
	for (int i = 0; i < streams; i++)
		close(clients[i].fd);
	if (up)
		usleep(150000); /* what was under way still costs the proxy */
	printf("{\"mbps\":%.1f,\"all_mb\":%.3f,\"generator\":%.3f}\n",
	       (last - first) / 1e6 / elapsed, (up ? counters->received - before : down) / 1e6,
	       used / elapsed);
	return 0;
}

/* ---- rate: connect, handshake, request, answer, close, and again ---- */

static int ascending(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return x < y ? -1 : x > y;
}

/* One step of one connection: 1 when it is over, 0 when not, -1 when it failed. */
static int turn(struct client *client)
{
	int result;

	if (client->state == WAITING)
		return response(client);
	result = advance(client);
	return result > 0 ? request(client) : result;
}

/* A free client begins, if the pace lets it; `begun` did before, since `start`. */
static int begin_due(struct client *client, double start, int pace, long begun)
{
	client->fd = -1;
	if (pace && begun >= (now() - start) * pace)
		return 0;
	begin(client);
	return 1;
}

/* concurrency: connections at one time; pace: how many may begin in a second, 0 = no limit. */
int rate(int concurrency, double seconds, int pace)
{
	struct client *clients = calloc(concurrency, sizeof *clients);
	float *latencies = malloc(sizeof *latencies * SAMPLES);
	struct epoll_event events[EVENTS];
	double start = now(), cpu_start = cpu(), elapsed;
	long begun = 0, done = 0, failed = 0, stuck = 0;

	rotate = 1;
	for (int i = 0; i < concurrency; i++)
		begun += begin_due(&clients[i], start, pace, begun);
	while (now() < start + seconds && done < SAMPLES - EVENTS) {
		int count = epoll_wait(epoll, events, EVENTS, pace ? 1 : 50);

		for (int i = 0; pace && i < concurrency; i++)
			if (clients[i].fd < 0)
				begun += begin_due(&clients[i], start, pace, begun);
		for (int i = 0; i < count; i++) {
			struct client *client = events[i].data.ptr;
			int result = turn(client);

			if (!result)
				continue;
			close(client->fd);
			if (result > 0)
				latencies[done++] = (now() - client->since) * 1e6;
			else
				failed++;
			begun += begin_due(client, start, pace, begun);
		}
		for (int i = 0; !count && i < concurrency; i++) {
			if (clients[i].fd < 0 || now() - clients[i].since < STUCK)
				continue;
			stuck++;
			close(clients[i].fd);
			begin(&clients[i]);
		}
	}
	elapsed = now() - start;
	double used = cpu() - cpu_start;

	for (int i = 0; i < concurrency; i++)
		if (clients[i].fd >= 0)
			close(clients[i].fd);
	if (!done) {
		fprintf(stderr, "no connection succeeded, %ld failed\n", failed);
		return 1;
	}
	qsort(latencies, done, sizeof *latencies, ascending);
	printf("{\"cps\":%.1f,\"p50\":%.0f,\"p99\":%.0f,\"max\":%.0f,\"connections\":%ld,"
	       "\"failed\":%ld,\"stuck\":%ld,\"generator\":%.3f}\n",
	       done / elapsed, latencies[done / 2], latencies[done * 99 / 100],
	       latencies[done - 1], done, failed, stuck, used / elapsed);
	return 0;
}

/* ---- idle: tunnels that carried 1 KiB both ways, then nothing ---- */

int idle(int count)
{
	struct client *clients = calloc(count, sizeof *clients);
	struct epoll_event events[EVENTS];
	struct pollfd input = {.fd = 0, .events = POLLIN};
	double end = now() + 30;
	int started = 0, done = 0, lost = 0;

	rotate = 1;
	while (done < count && now() < end) {
		while (started < count && started - done < BURST)
			begin(&clients[started++]);
		int ready = epoll_wait(epoll, events, EVENTS, 50);

		for (int i = 0; i < ready; i++) {
			struct client *client = events[i].data.ptr;

			if (client->state == DONE) {
				lost++;
				epoll_ctl(epoll, EPOLL_CTL_DEL, client->fd, NULL);
				continue;
			}
			switch (turn(client)) {
			case -1:
				die("tunnel");
				break;
			case 1:
				client->state = DONE;
				done++;
			}
		}
	}
	printf("READY %d\n", done - lost);
	fflush(stdout);
	poll(&input, 1, 150 * 1000);
	return 0;
}
