/* Open-loop load over HTTP/1.1: requests are due at the times of a Poisson process, whatever the
 * server does, and latency counts from when a request was due. `openloop.py` compiles and runs it.
 *
 * One thread, epoll, a timerfd for the next due time. A request that finds no idle connection opens
 * one; with all `--connections` busy it waits, and that wait is part of its latency. Prints one
 * line of JSON. How late the client itself was is in it: were that much, the client would be the
 * bottleneck and not the server.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <math.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define HEAD_BYTES 16384
#define NONE (-1)

enum state { FREE, CONNECTING, IDLE, BUSY };

struct connection {
    int fd;
    enum state state;
    uint32_t request;    /* index of the request under way */
    size_t written;      /* bytes of the request */
    size_t have;         /* bytes of the head in `head` */
    bool in_body, closes;
    int status;
    size_t body_left;
    int next_idle;       /* stack of idle and of free ones */
    char head[HEAD_BYTES];
};

static struct {
    const char *host, *port, *path, *token, *body_file, *type;
    double rate, seconds, warmup, target, grace;
    int connections;
    uint64_t seed;
} option = {"127.0.0.1", "8080", "/", NULL, NULL, "application/json", 100, 10, 1, 0.05, 10, 512, 1};

static struct connection *connections;
static int idle_top = NONE, free_top = NONE, dropped_top = NONE;
static struct sockaddr_storage address;
static socklen_t address_size;
static char *request_bytes;
static size_t request_size;
static int poller, timer;

/* One entry for each request: when it was due, and how it ended. */
static double *due_at, *answered_at, *late_by;
static int16_t *status_of; /* 0: no answer yet; -1: the connection failed */
static bool *retried;
static uint32_t total, next_due, *waiting, waiting_head, waiting_tail, finished;
static uint64_t waited, retries, failures, opened;
static double origin; /* the clock's reading at time 0 of the schedule */

static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("openloop: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9 - origin;
}

/* xorshift64*: the same schedule for a seed everywhere. In (0, 1]. */
static double uniform(void) {
    option.seed ^= option.seed >> 12;
    option.seed ^= option.seed << 25;
    option.seed ^= option.seed >> 27;
    return ((double)((option.seed * 2685821657736338717ULL) >> 11) + 1.0) / 9007199254740992.0;
}

static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    if (!memory) die("out of memory for %zu requests; lower --rate or --seconds", count);
    return memory;
}

static void make_schedule(void) {
    double end = option.warmup + option.seconds, t = 0;
    size_t room = (size_t)(option.rate * end * 1.2 + 1000);
    due_at = allocate(room, sizeof *due_at);
    while ((t += -log(uniform()) / option.rate) < end && total < room) due_at[total++] = t;
    answered_at = allocate(total, sizeof *answered_at);
    late_by = allocate(total, sizeof *late_by);
    status_of = allocate(total, sizeof *status_of);
    retried = allocate(total, sizeof *retried);
    waiting = allocate(2 * (size_t)total + 1, sizeof *waiting);
}

static void make_request(void) {
    char *body = NULL;
    size_t size = 0;
    if (option.body_file) {
        FILE *file = fopen(option.body_file, "rb");
        if (!file || fseek(file, 0, SEEK_END)) die("%s: %s", option.body_file, strerror(errno));
        size = (size_t)ftell(file);
        rewind(file);
        body = allocate(size, 1);
        if (fread(body, 1, size, file) != size) die("%s: could not be read whole", option.body_file);
        fclose(file);
    }
    char *head;
    int length = asprintf(
        &head,
        "POST %s HTTP/1.1\r\nHost: %s:%s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n%s%s%s\r\n",
        option.path, option.host, option.port, option.type, size,
        option.token ? "Authorization: Bearer " : "", option.token ? option.token : "",
        option.token ? "\r\n" : "");
    if (length < 0) die("out of memory");
    request_size = (size_t)length + size;
    request_bytes = allocate(request_size, 1);
    memcpy(request_bytes, head, (size_t)length);
    if (size) memcpy(request_bytes + length, body, size);
    free(head);
    free(body);
}

static void resolve(void) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    int error = getaddrinfo(option.host, option.port, &hints, &found);
    if (error) die("%s:%s: %s", option.host, option.port, gai_strerror(error));
    memcpy(&address, found->ai_addr, found->ai_addrlen);
    address_size = found->ai_addrlen;
    freeaddrinfo(found);
}

static void finish(uint32_t request, int status) {
    status_of[request] = (int16_t)status;
    answered_at[request] = now();
    finished++;
}

static void drop(struct connection *c) {
    close(c->fd);
    c->fd = -1;
    c->state = FREE;
    c->next_idle = dropped_top;
    dropped_top = (int)(c - connections);
}

/* Not before the events in hand have been handled: one of them may be about the old socket. */
static void free_dropped(void) {
    while (dropped_top != NONE) {
        struct connection *c = &connections[dropped_top];
        dropped_top = c->next_idle;
        c->next_idle = free_top;
        free_top = (int)(c - connections);
    }
}

static struct connection *pop_idle(void) {
    if (idle_top == NONE) return NULL;
    struct connection *c = &connections[idle_top];
    idle_top = c->next_idle;
    return c;
}

static void unlink_idle(struct connection *c) {
    int *link = &idle_top, self = (int)(c - connections);
    while (*link != NONE && *link != self) link = &connections[*link].next_idle;
    if (*link == self) *link = c->next_idle;
}

static void watch(struct connection *c, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(poller, operation, c->fd, &event)) die("epoll_ctl: %s", strerror(errno));
}

static void wait_again(uint32_t request) { waiting[waiting_tail++] = request; }

/* The connection ended with a request on it. A server may close an idle connection just when the
 * next request leaves: once, that one is sent again on another. */
static void broken(struct connection *c) {
    uint32_t request = c->request;
    bool answer_began = c->have || c->in_body;
    drop(c);
    if (!answer_began && !retried[request]) {
        retried[request] = true;
        retries++;
        wait_again(request);
        return;
    }
    failures++;
    finish(request, -1);
}

static void push_bytes(struct connection *c) {
    while (c->written < request_size) {
        ssize_t n = send(c->fd, request_bytes + c->written, request_size - c->written, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return;
        }
        if (n < 0) {
            broken(c);
            return;
        }
        c->written += (size_t)n;
        if (c->written == request_size) watch(c, EPOLL_CTL_MOD, EPOLLIN);
    }
}

static void send_on(struct connection *c, uint32_t request) {
    c->request = request;
    c->written = c->have = 0;
    c->in_body = c->closes = false;
    c->state = BUSY;
    ssize_t n = send(c->fd, request_bytes, request_size, MSG_NOSIGNAL);
    if (n == (ssize_t)request_size) {
        c->written = request_size;
    } else if (n < 0 && errno != EAGAIN) {
        broken(c);
    } else {
        c->written = n > 0 ? (size_t)n : 0;
        watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
    }
}

static bool open_for(uint32_t request) {
    if (free_top == NONE) return false;
    struct connection *c = &connections[free_top];
    int fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0) die("socket: %s; raise `ulimit -n` or lower --connections", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    free_top = c->next_idle;
    opened++;
    c->fd = fd;
    c->have = c->written = 0;
    c->in_body = c->closes = false;
    c->request = request;
    int result = connect(fd, (struct sockaddr *)&address, address_size);
    if (result && errno != EINPROGRESS) {
        c->state = BUSY;
        broken(c);
        return true;
    }
    c->state = result ? CONNECTING : BUSY;
    watch(c, EPOLL_CTL_ADD, result ? EPOLLOUT : EPOLLIN);
    if (!result) push_bytes(c);
    return true;
}

static bool start(uint32_t request) {
    struct connection *c = pop_idle();
    if (!c) return open_for(request);
    send_on(c, request);
    return true;
}

static void start_waiting(void) {
    while (waiting_head < waiting_tail && start(waiting[waiting_head])) waiting_head++;
}

static void start_due(double t) {
    for (; next_due < total && due_at[next_due] <= t; next_due++) {
        late_by[next_due] = t - due_at[next_due];
        if (waiting_head < waiting_tail || !start(next_due)) {
            waited++;
            wait_again(next_due);
        }
    }
}

static void answered(struct connection *c) {
    finish(c->request, c->status);
    c->have = 0;
    c->in_body = false;
    if (c->closes) {
        drop(c);
    } else {
        c->state = IDLE;
        c->next_idle = idle_top;
        idle_top = (int)(c - connections);
    }
    start_waiting();
}

/* Reads the head that is complete in c->head; the bytes behind it belong to the body. */
static void read_head(struct connection *c, size_t head_size) {
    if (sscanf(c->head, "HTTP/1.%*d %d", &c->status) != 1) die("that is no HTTP: %.60s", c->head);
    bool sized = false;
    for (char *line = strstr(c->head, "\r\n"); line; line = strstr(line + 2, "\r\n")) {
        char *field = line + 2;
        if (!strncasecmp(field, "content-length:", 15)) {
            c->body_left = strtoul(field + 15, NULL, 10);
            sized = true;
        } else if (!strncasecmp(field, "connection:", 11)) {
            char *value = field + 11 + strspn(field + 11, " ");
            c->closes = !strncasecmp(value, "close", 5);
        } else if (!strncasecmp(field, "transfer-encoding:", 18)) {
            die("answers come in chunks: only those with a content-length are understood");
        }
    }
    if (!sized) c->body_left = 0;
    size_t extra = c->have - head_size;
    if (extra > c->body_left) die("bytes behind the end of an answer");
    c->body_left -= extra;
    c->in_body = true;
}

/* Returns false when there is nothing more to read for now, or the connection is done with. */
static bool read_some(struct connection *c) {
    static char sink[1 << 18];
    char *place = c->in_body ? sink : c->head + c->have;
    size_t room = c->in_body ? sizeof sink : HEAD_BYTES - 1 - c->have;
    if (!room) die("the head of an answer is longer than %d bytes", HEAD_BYTES);
    ssize_t n = recv(c->fd, place, room, 0);
    if (n < 0 && errno == EAGAIN) return false;
    if (n <= 0) {
        broken(c);
        start_waiting();
        return false;
    }
    if (c->in_body) {
        if ((size_t)n > c->body_left) die("bytes behind the end of an answer");
        c->body_left -= (size_t)n;
    } else {
        c->have += (size_t)n;
        c->head[c->have] = 0;
        char *end = strstr(c->head, "\r\n\r\n");
        if (!end) return true;
        size_t head_size = (size_t)(end + 4 - c->head);
        end[2] = 0;
        read_head(c, head_size);
    }
    if (c->body_left) return true;
    answered(c);
    return false;
}

static void handle(struct connection *c, uint32_t events) {
    if (c->state == IDLE) { /* the server closed it */
        unlink_idle(c);
        drop(c);
        return;
    }
    if (c->state == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) {
            broken(c);
            return;
        }
        c->state = BUSY;
        push_bytes(c);
        return;
    }
    if (c->state == BUSY && (events & EPOLLOUT)) push_bytes(c);
    if (c->state == BUSY && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        while (read_some(c)) continue;
}

static void arm(double at) {
    double moment = at + origin;
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)moment}};
    when.it_value.tv_nsec = (long)((moment - (double)when.it_value.tv_sec) * 1e9);
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static void run(void) {
    struct epoll_event events[256];
    double last = option.warmup + option.seconds + option.grace;
    while (finished < total) {
        double t = now();
        if (t > last) return;
        free_dropped();
        start_due(t);
        start_waiting();
        arm(next_due < total ? due_at[next_due] : last);
        int count = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c) {
                uint64_t ticks;
                if (read(timer, &ticks, sizeof ticks) < 0 && errno != EAGAIN) die("timerfd");
            } else if (c->state != FREE) {
                handle(c, events[i].events);
            }
        }
    }
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_percentiles(const char *name, double *values, size_t count) {
    static const double shares[] = {50, 90, 95, 99, 99.9};
    qsort(values, count, sizeof *values, ascending);
    printf("\"%s\": {", name);
    for (size_t i = 0; count && i < sizeof shares / sizeof *shares; i++) {
        size_t rank = (size_t)ceil(shares[i] / 100 * (double)count);
        printf("\"p%g\": %.4f, ", shares[i], values[rank ? rank - 1 : 0] * 1e3);
    }
    printf("\"max\": %.4f}", count ? values[count - 1] * 1e3 : 0.0);
}

static void report(double wall, double cpu) {
    double *latencies = allocate(total, sizeof *latencies), *late = allocate(total, sizeof *late);
    size_t ok = 0, in_time = 0, finished_ok = 0, sent = 0, unanswered = 0, by_status[600] = {0};
    for (uint32_t i = 0; i < total; i++) {
        bool fine = status_of[i] >= 200 && status_of[i] <= 299;
        finished_ok += fine && answered_at[i] >= option.warmup &&
                       answered_at[i] < option.warmup + option.seconds;
        if (due_at[i] < option.warmup) continue;
        late[sent++] = late_by[i];
        if (status_of[i] == 0) unanswered++;
        if (status_of[i] > 0 && status_of[i] < 600) by_status[status_of[i]]++;
        if (!fine) continue;
        double latency = answered_at[i] - due_at[i];
        latencies[ok++] = latency;
        in_time += latency <= option.target;
    }
    printf("{\"sent\": %zu, \"ok\": %zu, \"in_time\": %zu, ", sent, ok, in_time);
    printf("\"goodput\": %.3f, \"throughput\": %.3f, ", (double)in_time / option.seconds,
           (double)finished_ok / option.seconds);
    printf("\"unanswered\": %zu, \"failed_connections\": %lu, \"retries\": %lu, \"opened\": %lu, ",
           unanswered, failures, retries, opened);
    printf("\"waited_for_connection\": %lu, \"statuses\": {", waited);
    const char *comma = "";
    for (int status = 0; status < 600; status++)
        if (by_status[status]) {
            printf("%s\"%d\": %zu", comma, status, by_status[status]);
            comma = ", ";
        }
    printf("}, ");
    print_percentiles("latency_ms", latencies, ok);
    printf(", ");
    print_percentiles("client_late_ms", late, sent);
    printf(", \"client_cpu\": %.4f}\n", wall > 0 ? cpu / wall : 0.0);
}

static double number(const char *name, const char *text, double least) {
    char *end;
    double value = strtod(text, &end);
    if (*end || !(value >= least)) die("--%s: expected a number, at least %g, not %s", name, least, text);
    return value;
}

static void read_options(int count, char **values) {
    static const struct option known[] = {
        {"host", 1, 0, 'h'},     {"port", 1, 0, 'p'},        {"path", 1, 0, 'u'},
        {"token", 1, 0, 't'},    {"body", 1, 0, 'b'},        {"content-type", 1, 0, 'c'},
        {"rate", 1, 0, 'r'},     {"seconds", 1, 0, 's'},     {"warmup", 1, 0, 'w'},
        {"target", 1, 0, 'g'},   {"connections", 1, 0, 'n'}, {"seed", 1, 0, 'e'},
        {"grace", 1, 0, 'a'},    {0, 0, 0, 0}};
    int letter;
    while ((letter = getopt_long(count, values, "", known, NULL)) != -1) switch (letter) {
            case 'h': option.host = optarg; break;
            case 'p': option.port = optarg; break;
            case 'u': option.path = optarg; break;
            case 't': option.token = optarg; break;
            case 'b': option.body_file = optarg; break;
            case 'c': option.type = optarg; break;
            case 'r': option.rate = number("rate", optarg, 0.001); break;
            case 's': option.seconds = number("seconds", optarg, 0.1); break;
            case 'w': option.warmup = number("warmup", optarg, 0); break;
            case 'g': option.target = number("target", optarg, 0.001) / 1e3; break;
            case 'a': option.grace = number("grace", optarg, 0); break;
            case 'n': option.connections = (int)number("connections", optarg, 1); break;
            case 'e': option.seed = (uint64_t)number("seed", optarg, 0) * 2654435769u + 1; break;
            default:
                die("usage: openloop [--host H] [--port P] --path /predictions/m [--rate per second]\n"
                    "  [--seconds S] [--warmup S] [--target ms] [--connections N] [--seed N]\n"
                    "  [--grace S] [--token KEY] [--body FILE] [--content-type TYPE]");
        }
    if (optind < count) die("%s is no option", values[optind]);
}

int main(int count, char **values) {
    read_options(count, values);
    prctl(PR_SET_TIMERSLACK, 1); /* the kernel's default lets timers be 50 microseconds late */
    make_request();
    make_schedule();
    resolve();
    connections = allocate((size_t)option.connections, sizeof *connections);
    for (int i = option.connections - 1; i >= 0; i--) {
        connections[i].next_idle = free_top;
        free_top = i;
    }
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (poller < 0 || timer < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event))
        die("epoll and timerfd: %s", strerror(errno));
    origin = now();
    run();
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                 (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6;
    report(now(), cpu);
    return 0;
}
