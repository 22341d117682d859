/* crelay, the yardstick: a TCP relay to one fixed destination, in C.
 *
 *   crelay PORT DPORT copy|splice
 *
 * One thread, level-triggered epoll, no handshake, no limits, no log. `copy` moves bytes
 * through a 64 KiB buffer per direction, `splice` through a 1 MiB pipe per direction.
 * What it reaches is what a proxy on this kernel can hope for.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 64 * 1024, PIPE = 1 << 20, EVENTS = 128 };

/* One socket, and what was read from it and not yet written to its peer. */
struct half {
	int fd;
	struct half *peer;
	int pending, offset;
	char *buffer;
	int pipe[2];
	int connecting, ended, dead;
	uint32_t interest;
};

static int epoll, splicing;

/* Both halves of a dead connection wait here until no event of the batch can name them. */
static struct half *dead[2 * EVENTS];
static int dead_count;

static void update(struct half *half)
{
	struct epoll_event event = {.data.ptr = half};

	if (half->connecting) {
		event.events = EPOLLOUT;
	} else {
		if (!half->ended && !half->pending)
			event.events |= EPOLLIN;
		if (half->peer->pending)
			event.events |= EPOLLOUT;
	}
	if (event.events != half->interest) {
		epoll_ctl(epoll, EPOLL_CTL_MOD, half->fd, &event);
		half->interest = event.events;
	}
}

static void drop(struct half *half)
{
	struct half *both[] = {half, half->peer};

	for (int i = 0; i < 2; i++) {
		close(both[i]->fd);
		if (splicing) {
			close(both[i]->pipe[0]);
			close(both[i]->pipe[1]);
		}
		both[i]->dead = 1;
		dead[dead_count++] = both[i];
	}
}

/* Write what is pending to the peer; answers 0 when the peer is gone. */
static int flush(struct half *half)
{
	while (half->pending) {
		ssize_t put = splicing ? splice(half->pipe[0], NULL, half->peer->fd, NULL,
						half->pending, SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
				       : send(half->peer->fd, half->buffer + half->offset,
					      half->pending, MSG_NOSIGNAL);

		if (put <= 0)
			return put < 0 && errno == EAGAIN;
		half->pending -= put;
		half->offset += put;
	}
	half->offset = 0;
	return 1;
}

/* Read once and pass it on; answers 0 when the connection is over. */
static int pump(struct half *half)
{
	ssize_t got = splicing ? splice(half->fd, NULL, half->pipe[1], NULL, PIPE,
					SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
			       : recv(half->fd, half->buffer, BUFFER, 0);

	if (got < 0)
		return errno == EAGAIN;
	if (got == 0) {
		half->ended = 1;
		shutdown(half->peer->fd, SHUT_WR);
		return !half->peer->ended;
	}
	half->pending = got;
	return flush(half);
}

static struct half *half_of(int fd)
{
	struct half *half = calloc(1, sizeof *half);
	int on = 1;

	half->fd = fd;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	if (splicing) {
		if (pipe2(half->pipe, O_NONBLOCK))
			perror("pipe2");
		fcntl(half->pipe[1], F_SETPIPE_SZ, PIPE);
	} else {
		half->buffer = malloc(BUFFER);
	}
	return half;
}

static void relay(int client_fd, const struct sockaddr_in *target)
{
	int target_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	struct half *client = half_of(client_fd), *server = half_of(target_fd);
	struct epoll_event event = {.data.ptr = client};

	connect(target_fd, (const struct sockaddr *)target, sizeof *target);
	client->peer = server;
	server->peer = client;
	server->connecting = 1;
	epoll_ctl(epoll, EPOLL_CTL_ADD, client_fd, &event);
	event.data.ptr = server;
	event.events = server->interest = EPOLLOUT;
	epoll_ctl(epoll, EPOLL_CTL_ADD, target_fd, &event);
}

/* Handle one event; answers 0 when the connection is over. */
static int serve(struct half *half, uint32_t events)
{
	int error = 0;
	socklen_t size = sizeof error;

	if (half->connecting) {
		getsockopt(half->fd, SOL_SOCKET, SO_ERROR, &error, &size);
		half->connecting = 0;
		return !error;
	}
	if (events & EPOLLOUT && !flush(half->peer))
		return 0;
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !half->pending && !half->ended)
		return pump(half);
	return !(events & EPOLLHUP);
}

int main(int argc, char **argv)
{
	struct sockaddr_in here = {.sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_in target = here;
	struct epoll_event events[EVENTS], event = {.events = EPOLLIN};
	struct rlimit files;
	int listener, fd, on = 1;

	if (argc != 4) {
		fputs("usage: crelay PORT DPORT copy|splice\n", stderr);
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	here.sin_port = htons(atoi(argv[1]));
	target.sin_port = htons(atoi(argv[2]));
	splicing = !strcmp(argv[3], "splice");

	epoll = epoll_create1(0);
	listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 4096)) {
		perror("listen");
		return 1;
	}
	epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event); /* its data pointer is NULL */
	for (;;) {
		int ready = epoll_wait(epoll, events, EVENTS, -1);

		for (int i = 0; i < ready; i++) {
			struct half *half = events[i].data.ptr;

			if (!half) {
				for (int j = 0; j < 64; j++) {
					fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
					if (fd < 0)
						break;
					relay(fd, &target);
				}
			} else if (!half->dead && !serve(half, events[i].events)) {
				drop(half);
			} else if (!half->dead) {
				update(half);
				update(half->peer);
			}
		}
		while (dead_count) {
			free(dead[--dead_count]->buffer);
			free(dead[dead_count]);
		}
	}
}
