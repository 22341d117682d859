/* Watchers: raw WebSocket clients (RFC 6455) of the event stream, and followers of the log,
 * which is a stream of server-sent events.
 *
 * They read everything and check the promise of both: numbers grow by one with each event
 * or entry, and what a client missed is told by `events.lost`, or by an entry. Both ends of
 * a frame's text are enough for that: it begins with the type and ends with the number. An
 * entry begins with the number.
 */
#define _GNU_SOURCE
#include "lg.h"

#include <errno.h>
#include <limits.h>
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
	int follows; /* the log, not the events */
	int open;
	int fill;
	long long seq; /* the last number seen, -1 before the first */
	long frames, begun, ended, entries, gaps, lost;
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

/* The word of a loss, if `text` is one. */
static void loss(struct watcher *watcher, const char *text, long length)
{
	const char *count = memmem(text, length, "\"lost\":", 7);

	if (count)
		watcher->lost += atol(count + 7) > 0 ? atol(count + 7) : 1;
}

/* Snapshots and notices repeat the last number; all others take the next one. */
static void numbered(struct watcher *watcher, long long seq)
{
	if (watcher->seq >= 0 && seq > watcher->seq + 1)
		watcher->gaps += seq - watcher->seq - 1;
	if (seq >= 0)
		watcher->seq = seq;
}

static void event(struct watcher *watcher, const char *text, long length)
{
	watcher->frames++;
	if (starts(text, length, "{\"type\":\"connection.new\"")) {
		watcher->begun++;
	} else if (starts(text, length, "{\"type\":\"connection.close\"")) {
		watcher->ended++;
	} else if (starts(text, length, "{\"type\":\"events.lost\"")) {
		loss(watcher, text, length);
	}
	numbered(watcher, seq_of(text, length));
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

/* Take one block of a log stream off data; answers its length, 0 when it is not complete. */
static int block_of_log(struct watcher *watcher, const char *data, int length)
{
	const char *end = memmem(data, length, "\n\n", 2), *dash;

	if (!end)
		return 0;
	if (starts(data, length, "id: ") && (dash = memchr(data, '-', end - data))) {
		watcher->entries++;
		if (memmem(data, end - data, "\"fields\":{\"lost\":", 17))
			loss(watcher, data, end - data);
		numbered(watcher, atoll(dash + 1));
	}
	return end + 2 - data;
}

static void handshake(struct watcher *watcher, int port)
{
	static const char events[] = "GET /api/v1/ws HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
				     "Upgrade: websocket\r\nConnection: Upgrade\r\n"
				     "Sec-WebSocket-Version: 13\r\n"
				     "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n";
	static const char entries[] = "GET /api/v1/logs/stream HTTP/1.1\r\n"
				      "Host: 127.0.0.1:%d\r\n\r\n";
	struct sockaddr_in there = loopback(port);
	char text[512];
	int length = sprintf(text, watcher->follows ? entries : events, port);

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
		if (!starts(watcher->data, watcher->fill,
			    watcher->follows ? "HTTP/1.1 200" : "HTTP/1.1 101"))
			return 0;
		watcher->open = 1;
		at = end + 4 - watcher->data;
	}
	do {
		char *data = watcher->data + at;

		length = watcher->follows
				 ? block_of_log(watcher, data, watcher->fill - at)
				 : frame(watcher, (unsigned char *)data, watcher->fill - at);
		at += length;
	} while (length);
	watcher->fill -= at;
	memmove(watcher->data, watcher->data + at, watcher->fill);
	return watcher->fill < ROOM;
}

static long least(long one, long other)
{
	return one < other ? one : other;
}

static void report(const struct watcher *watchers, int count, int closed)
{
	struct watcher sum = {.begun = LONG_MAX, .ended = LONG_MAX, .entries = LONG_MAX};

	for (int i = 0; i < count; i++) {
		const struct watcher *one = &watchers[i];

		sum.frames += one->frames;
		sum.bytes += one->bytes;
		sum.gaps += one->gaps;
		sum.lost += one->lost;
		if (one->follows) {
			sum.entries = least(sum.entries, one->entries);
		} else {
			sum.begun = least(sum.begun, one->begun);
			sum.ended = least(sum.ended, one->ended);
		}
	}
	printf("{\"frames\":%ld,\"bytes\":%.0f,\"new\":%ld,\"close\":%ld,\"gaps\":%ld,"
	       "\"lost\":%ld,\"closed\":%d",
	       sum.frames, sum.bytes, sum.begun, sum.ended, sum.gaps, sum.lost, closed);
	if (sum.entries < LONG_MAX)
		printf(",\"entries\":%ld", sum.entries);
	puts("}");
}

/* Hold `events` watchers of the events and `followers` of the log for at most `seconds`, or
 * until stdin ends. Prints READY when all are connected, and at the end one JSON line: `new`,
 * `close` and `entries` are what the one with the fewest saw, all else is the sum; `closed`
 * counts those that the server hung up on. */
int watch(int port, int events, int followers, double seconds)
{
	int count = events + followers;
	struct watcher *watchers = calloc(MOST, sizeof *watchers);
	struct pollfd polls[MOST + 1];
	double end = now() + seconds;
	int closed = 0, ready = 0;

	if (events < 1 || followers < 0 || count > MOST) {
		fprintf(stderr, "watch: 1 to %d watchers\n", MOST);
		return 2;
	}
	for (int i = 0; i < count; i++) {
		watchers[i].follows = i >= events;
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
