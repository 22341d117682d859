/* Watchers: raw WebSocket clients (RFC 6455) of the event stream.
 *
 * They read all frames and check the promise of the stream: `seq` grows by one with each
 * event, and what a client missed is told by `events.lost`. Both ends of a frame's text
 * are enough for that: it begins with the type and ends with the number.
 */
#define _GNU_SOURCE
#include "lg.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LAST 0.3 /* seconds in which the last events arrive */

enum { MOST = 100, ROOM = 256 * 1024 };

struct watcher {
	int fd; /* -1 once the server closed it */
	int open;
	int fill;
	long long seq; /* the last number seen, -1 before the first */
	long frames, begun, ended, gaps, lost;
	double bytes;
	char data[ROOM];
};

static int starts(const char *text, long length, const char *with)
{
	long n = strlen(with);

	return length >= n && !memcmp(text, with, n);
}

/* The number at the end of {...,"seq":N}, or -1. */
static long long seq_of(const char *text, long length)
{
	long at = length - 1;

	if (length < 8 || text[at] != '}')
		return -1;
	while (at > 0 && text[at - 1] >= '0' && text[at - 1] <= '9')
		at--;
	if (at < 6 || memcmp(text + at - 6, "\"seq\":", 6))
		return -1;
	return strtoll(text + at, NULL, 10);
}

static void event(struct watcher *watcher, const char *text, long length)
{
	long long seq = seq_of(text, length);

	watcher->frames++;
	if (starts(text, length, "{\"type\":\"connection.new\"")) {
		watcher->begun++;
	} else if (starts(text, length, "{\"type\":\"connection.close\"")) {
		watcher->ended++;
	} else if (starts(text, length, "{\"type\":\"events.lost\"")) {
		const char *count = memmem(text, length, "\"lost\":", 7);

		watcher->lost += count && atol(count + 7) > 0 ? atol(count + 7) : 1;
	}
	/* Snapshots and notices repeat the last number; all others take the next one. */
	if (watcher->seq >= 0 && seq > watcher->seq + 1)
		watcher->gaps += seq - watcher->seq - 1;
	if (seq >= 0)
		watcher->seq = seq;
}

/* Take one frame off data; answers its length, 0 when it is not complete. */
static int frame(struct watcher *watcher, const unsigned char *data, int length)
{
	int head = 2, size;

	if (length < 4)
		return 0;
	size = data[1] & 127;
	if (size == 126) {
		size = data[2] << 8 | data[3];
		head = 4;
	} else if (size == 127) {
		if (length < 10)
			return 0;
		size = data[6] << 24 | data[7] << 16 | data[8] << 8 | data[9];
		head = 10;
	}
	if (length < head + size)
		return 0;
	if ((data[0] & 15) == 1) /* text; ping and close need no answer in so short a life */
		event(watcher, (const char *)data + head, size);
	return head + size;
}

static void handshake(struct watcher *watcher, int port)
{
	static const char request[] = "GET /api/v1/ws HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
				      "Upgrade: websocket\r\nConnection: Upgrade\r\n"
				      "Sec-WebSocket-Version: 13\r\n"
				      "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n";
	struct sockaddr_in there = loopback(port);
	char text[512];
	int length = sprintf(text, request, port);

	watcher->seq = -1;
	watcher->fd = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(watcher->fd, (struct sockaddr *)&there, sizeof there) ||
	    send(watcher->fd, text, length, MSG_NOSIGNAL) != length)
		die("watch");
}

/* Read what came; answers whether the connection is still open. */
static int take(struct watcher *watcher)
{
	ssize_t got = recv(watcher->fd, watcher->data + watcher->fill, ROOM - watcher->fill,
			   MSG_DONTWAIT);
	int at = 0, length;

	if (got <= 0)
		return got < 0 && errno == EAGAIN;
	watcher->bytes += got;
	watcher->fill += got;
	if (!watcher->open) {
		char *end = memmem(watcher->data, watcher->fill, "\r\n\r\n", 4);

		if (!end)
			return 1;
		if (!starts(watcher->data, watcher->fill, "HTTP/1.1 101"))
			return 0;
		watcher->open = 1;
		at = end + 4 - watcher->data;
	}
	while ((length = frame(watcher, (unsigned char *)watcher->data + at, watcher->fill - at)))
		at += length;
	watcher->fill -= at;
	memmove(watcher->data, watcher->data + at, watcher->fill);
	return watcher->fill < ROOM;
}

static void report(const struct watcher *watchers, int count, int closed)
{
	struct watcher sum = {.begun = watchers[0].begun, .ended = watchers[0].ended};

	for (int i = 0; i < count; i++) {
		const struct watcher *one = &watchers[i];

		sum.frames += one->frames;
		sum.bytes += one->bytes;
		sum.gaps += one->gaps;
		sum.lost += one->lost;
		if (one->begun < sum.begun)
			sum.begun = one->begun;
		if (one->ended < sum.ended)
			sum.ended = one->ended;
	}
	printf("{\"frames\":%ld,\"bytes\":%.0f,\"new\":%ld,\"close\":%ld,\"gaps\":%ld,"
	       "\"lost\":%ld,\"closed\":%d}\n",
	       sum.frames, sum.bytes, sum.begun, sum.ended, sum.gaps, sum.lost, closed);
}

/* Hold `count` watchers for at most `seconds`, or until stdin ends. Prints READY when all
 * are connected, and at the end one JSON line: `new` and `close` are what the watcher with
 * the fewest saw, all else is the sum; `closed` counts those that the server hung up on. */
int watch(int port, int count, double seconds)
{
	struct watcher *watchers = calloc(MOST, sizeof *watchers);
	struct pollfd polls[MOST + 1];
	double end = now() + seconds;
	int closed = 0, ready = 0;

	if (count < 1 || count > MOST) {
		fprintf(stderr, "watch: 1 to %d watchers\n", MOST);
		return 2;
	}
	for (int i = 0; i < count; i++) {
		handshake(&watchers[i], port);
		polls[i] = (struct pollfd){.fd = watchers[i].fd, .events = POLLIN};
	}
	polls[count] = (struct pollfd){.fd = 0, .events = POLLIN};
	while (now() < end && closed < count) {
		int open = 0;

		if (poll(polls, count + 1, 100) < 0)
			die("poll");
		for (int i = 0; i < count; i++) {
			if (polls[i].revents && polls[i].fd >= 0 && !take(&watchers[i])) {
				close(polls[i].fd);
				polls[i].fd = -1;
				closed++;
			}
			open += watchers[i].open;
		}
		if (open == count && !ready) {
			ready = 1;
			puts("READY");
			fflush(stdout);
		}
		if (polls[count].revents) { /* asked to end: take what is on its way */
			polls[count].fd = -1;
			end = now() + LAST;
		}
	}
	report(watchers, count, closed);
	return 0;
}
