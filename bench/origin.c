/* The origin: what the proxies are asked to connect to.
 *
 * The first 16 bytes of a connection say what it is for:
 *   D...        discard all that comes, and count it
 *   S<rate>.    send for ever, at most `rate` bytes a second (14 digits, 0 = no limit)
 *   E...        for each 1024 bytes send 1024 back
 *   G...        "GET": answer each HTTP request head with a body of 1024 bytes
 */
#define _GNU_SOURCE
#include "lg.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

struct peer {
	int fd;
	int listening;
	char mode; /* 0 until the first 16 bytes are here */
	int fill;
	char data[2048];
};

static int epoll;
static char answer[2048];
static int answer_length;

static void watch_for(struct peer *peer, int operation, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = peer};

	if (epoll_ctl(epoll, operation, peer->fd, &event))
		die("epoll_ctl");
}

static void listen_on(int port, int mss)
{
	struct sockaddr_in here = loopback(port);
	struct peer *peer = calloc(1, sizeof *peer);

	peer->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	peer->listening = 1;
	option(peer->fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (mss)
		option(peer->fd, IPPROTO_TCP, TCP_MAXSEG, mss);
	if (bind(peer->fd, (struct sockaddr *)&here, sizeof here) || listen(peer->fd, 4096))
		die("listen");
	watch_for(peer, EPOLL_CTL_ADD, EPOLLIN);
}

static void accept_some(const struct peer *listener)
{
	for (int i = 0; i < 64; i++) {
		int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK);
		struct peer *peer;

		if (fd < 0)
			return;
		option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
		peer = malloc(sizeof *peer);
		peer->fd = fd;
		peer->listening = peer->mode = peer->fill = 0;
		watch_for(peer, EPOLL_CTL_ADD, EPOLLIN);
	}
}

/* Read the purpose of a connection. */
static void hello(struct peer *peer)
{
	char rate[HELLO];

	peer->mode = peer->data[0];
	if (peer->mode == 'D') {
		counters->received += peer->fill;
	} else if (peer->mode == 'S') {
		memcpy(rate, peer->data + 1, HELLO - 1);
		rate[HELLO - 1] = 0;
		if (atoi(rate))
			option(peer->fd, SOL_SOCKET, SO_MAX_PACING_RATE, atoi(rate));
		watch_for(peer, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
	}
}

static int discard(struct peer *peer)
{
	ssize_t got = recv(peer->fd, NULL, 16 << 20, MSG_TRUNC);

	if (got > 0)
		counters->received += got;
	return got > 0 || (got < 0 && errno == EAGAIN);
}

static int flood(struct peer *peer, uint32_t events)
{
	char byte[64];

	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
		ssize_t got = recv(peer->fd, byte, sizeof byte, 0);

		if (got == 0 || (got < 0 && errno != EAGAIN))
			return 0;
	}
	return !(events & EPOLLOUT) || send(peer->fd, block, BLOCK, MSG_NOSIGNAL) > 0 ||
	       errno == EAGAIN;
}

static int converse(struct peer *peer)
{
	ssize_t got = recv(peer->fd, peer->data + peer->fill, sizeof peer->data - peer->fill, 0);

	if (got <= 0)
		return got < 0 && errno == EAGAIN;
	peer->fill += got;
	if (!peer->mode && peer->fill >= HELLO)
		hello(peer);
	if (peer->mode == 'E' && peer->fill >= MESSAGE) {
		peer->fill -= MESSAGE;
		return send(peer->fd, block, MESSAGE, MSG_NOSIGNAL) == MESSAGE;
	}
	if (peer->mode == 'G' && memmem(peer->data, peer->fill, "\r\n\r\n", 4)) {
		peer->fill = 0;
		return send(peer->fd, answer, answer_length, MSG_NOSIGNAL) == answer_length;
	}
	return 1;
}

static int serve(struct peer *peer, uint32_t events)
{
	switch (peer->mode) {
	case 'D':
		return discard(peer);
	case 'S':
		return flood(peer, events);
	default:
		return converse(peer);
	}
}

/* Serve PORTS ports from base_port on until killed; prints READY once it listens.
 * mss: largest segment in bytes, 0 for the kernel's. */
int origin(int base_port, int mss)
{
	struct epoll_event events[256];

	epoll = epoll_create1(0);
	answer_length = sprintf(answer, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
					"Content-Length: %d\r\n\r\n", MESSAGE);
	memset(answer + answer_length, 'x', MESSAGE);
	answer_length += MESSAGE;
	for (int i = 0; i < PORTS; i++)
		listen_on(base_port + i, mss);
	puts("READY");
	fflush(stdout);
	for (;;) {
		int ready = epoll_wait(epoll, events, 256, -1);

		for (int i = 0; i < ready; i++) {
			struct peer *peer = events[i].data.ptr;

			if (peer->listening) {
				accept_some(peer);
			} else if (!serve(peer, events[i].events)) {
				close(peer->fd);
				free(peer);
			}
		}
	}
}
