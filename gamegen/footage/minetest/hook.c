/*
 * Lock-step hook for an X11/GLX game client, loaded with LD_PRELOAD.
 *
 * Every glXSwapBuffers hands the finished frame to the recorder over a Unix socket, waits for one command
 * (held keys, mouse motion, fog) and moves a virtual clock by one video frame. The game therefore sees
 * exactly 1/24 s between frames however fast or slow the machine draws them.
 *
 * With a frame goes the inverse depth of what it shows, one value for DEPTH_CELL x DEPTH_CELL pixels. It is read when the
 * game clears the depth buffer before it draws the held item, or, where it draws none, when the frame is finished.
 *
 * Environment: GAMEGEN_HOOK_SOCKET (path), GAMEGEN_HOOK_WIDTH, GAMEGEN_HOOK_HEIGHT (pixels).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <GL/gl.h>
#include <GL/glx.h>
#include <X11/Xlib.h>
#include <X11/extensions/XTest.h>

enum { CAPTURE = 1, VIRTUAL_CLOCK = 2 };
enum { DEPTH_CELL = 4 };
enum { MAX_MOUSE_BUTTON = 7, FOCUS_FRAMES = 400, FOCUS_EVERY = 40 };
/* Threads of the game wait in real time for a virtual deadline: shorten their sleeps, they would idle. */
static const int64_t SLEEP_DIVISOR = 4;
static const int64_t NS_PER_S = 1000000000LL;
/* The engine's length unit: ten to a node. */
static const float UNITS_PER_NODE = 10.0f;
/* An inverse depth is this divided by the distance along the view in nodes, at most 255; 0 is the sky. */
static const float DEPTH_SCALE = 127.5f;

/* What the recorder sends after each frame; `num_events` Events follow it. */
typedef struct {
    int32_t flags;
    int32_t step_us;
    int32_t mouse_dx, mouse_dy;
    int32_t fog_end_nodes; /* 0 leaves the game's own fog */
    int32_t num_events;
} Command;

typedef struct {
    int32_t keysym_or_button; /* up to MAX_MOUSE_BUTTON: a mouse button */
    int32_t pressed;
} Event;

typedef int (*ClockGettime)(clockid_t, struct timespec *);

static ClockGettime real_clock_gettime;
static volatile int clock_is_virtual;
static volatile int64_t virtual_elapsed_ns;
static int64_t monotonic_base_ns, realtime_base_ns;

static int connection = -1;
static Display *input_display;
static uint8_t *pixels;
static float *depth_buffer;
static uint8_t *inverse_depth;
static int depth_is_read;
static int width, height;
/* The newest perspective projection, column by column as OpenGL keeps it. */
static float projection[16];
static int32_t flags;
static volatile int32_t fog_end_nodes;

/* ---- virtual clock ---------------------------------------------------------------------------------- */

static int64_t to_ns(struct timespec t) { return t.tv_sec * NS_PER_S + t.tv_nsec; }

static struct timespec to_timespec(int64_t ns) {
    struct timespec t = {ns / NS_PER_S, ns % NS_PER_S};
    return t;
}

static int64_t real_ns(clockid_t clock) {
    struct timespec t;
    if (!real_clock_gettime) real_clock_gettime = (ClockGettime)dlsym(RTLD_NEXT, "clock_gettime");
    real_clock_gettime(clock, &t);
    return to_ns(t);
}

int clock_gettime(clockid_t clock, struct timespec *out) {
    if (!clock_is_virtual || clock == CLOCK_PROCESS_CPUTIME_ID || clock == CLOCK_THREAD_CPUTIME_ID) {
        *out = to_timespec(real_ns(clock));
        return 0;
    }
    int is_realtime = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
    *out = to_timespec((is_realtime ? realtime_base_ns : monotonic_base_ns) + virtual_elapsed_ns);
    return 0;
}

int gettimeofday(struct timeval *out, void *zone) {
    (void)zone;
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    out->tv_sec = t.tv_sec;
    out->tv_usec = t.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (out) *out = t.tv_sec;
    return t.tv_sec;
}

/* The real deadline that stands for a virtual one. */
static struct timespec real_deadline(clockid_t clock, const struct timespec *deadline) {
    struct timespec now;
    clock_gettime(clock, &now);
    int64_t remaining = to_ns(*deadline) - to_ns(now);
    if (remaining < 0) remaining = 0;
    if (clock_is_virtual) remaining /= SLEEP_DIVISOR;
    return to_timespec(real_ns(clock) + remaining);
}

int sem_timedwait(sem_t *semaphore, const struct timespec *deadline) {
    static int (*real)(sem_t *, const struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "sem_timedwait");
    struct timespec t = real_deadline(CLOCK_REALTIME, deadline);
    return real(semaphore, &t);
}

int pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *deadline) {
    static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    /* The default symbol may be the old ABI, which cannot wait on a new condition variable. */
    if (!real) real = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!real) real = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    struct timespec t = real_deadline(CLOCK_REALTIME, deadline);
    return real(cond, mutex, &t);
}

int pthread_cond_clockwait(pthread_cond_t *cond, pthread_mutex_t *mutex, clockid_t clock,
                           const struct timespec *deadline) {
    static int (*real)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "pthread_cond_clockwait");
    struct timespec t = real_deadline(clock, deadline);
    return real(cond, mutex, clock, &t);
}

int nanosleep(const struct timespec *duration, struct timespec *remaining) {
    static int (*real)(const struct timespec *, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "nanosleep");
    struct timespec t = *duration;
    if (clock_is_virtual) t = to_timespec(to_ns(t) / SLEEP_DIVISOR);
    return real(&t, remaining);
}

int usleep(useconds_t us) {
    struct timespec t = to_timespec((int64_t)us * 1000);
    return nanosleep(&t, NULL);
}

static void advance_clock(const Command *command) {
    if ((command->flags & VIRTUAL_CLOCK) && !clock_is_virtual) {
        monotonic_base_ns = real_ns(CLOCK_MONOTONIC);
        realtime_base_ns = real_ns(CLOCK_REALTIME);
        clock_is_virtual = 1;
    }
    if (clock_is_virtual) virtual_elapsed_ns += (int64_t)command->step_us * 1000;
}

/* ---- socket ----------------------------------------------------------------------------------------- */

/* The recorder closing its end is the normal way to stop: leave without running the game's own shutdown. */
static void receive_all(void *data, size_t size) {
    char *cursor = data;
    while (size > 0) {
        ssize_t count = read(connection, cursor, size);
        if (count <= 0) _exit(0);
        cursor += count;
        size -= (size_t)count;
    }
}

static void send_all(const void *data, size_t size) {
    const char *cursor = data;
    while (size > 0) {
        ssize_t count = send(connection, cursor, size, MSG_NOSIGNAL);
        if (count <= 0) _exit(0);
        cursor += count;
        size -= (size_t)count;
    }
}

static void connect_recorder(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    connection = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(connection, (struct sockaddr *)&address, sizeof address)) {
        perror("gamegen hook: cannot connect to the recorder");
        _exit(3);
    }
    input_display = XOpenDisplay(NULL);
    width = atoi(getenv("GAMEGEN_HOOK_WIDTH"));
    height = atoi(getenv("GAMEGEN_HOOK_HEIGHT"));
    pixels = malloc((size_t)width * height * 3);
    depth_buffer = malloc((size_t)width * height * sizeof *depth_buffer);
    inverse_depth = malloc((size_t)(width / DEPTH_CELL) * (height / DEPTH_CELL));
}

/* ---- frames and input ------------------------------------------------------------------------------- */

/* Without a window manager nobody gives the game the keyboard, and it opens its window late. */
static void focus_game_window(void) {
    Window root, parent, *children;
    unsigned count;
    if (!XQueryTree(input_display, DefaultRootWindow(input_display), &root, &parent, &children, &count)) return;
    for (unsigned i = 0; i < count; i++) {
        XWindowAttributes window;
        if (XGetWindowAttributes(input_display, children[i], &window) && window.map_state == IsViewable &&
            window.width == width && window.height == height) {
            XSetInputFocus(input_display, children[i], RevertToPointerRoot, CurrentTime);
            XSync(input_display, False);
        }
    }
    if (children) XFree(children);
}

/* Reads the depth at the middle of each cell. From clip z = p10 z + p14 and clip w = p11 z follows the distance z. */
static void read_depth(void) {
    glPixelStorei(GL_PACK_ALIGNMENT, 4);
    glReadPixels(0, 0, width, height, GL_DEPTH_COMPONENT, GL_FLOAT, depth_buffer);
    int columns = width / DEPTH_CELL, rows = height / DEPTH_CELL;
    for (int row = 0; row < rows; row++) {
        for (int column = 0; column < columns; column++) {
            int y = row * DEPTH_CELL + DEPTH_CELL / 2, x = column * DEPTH_CELL + DEPTH_CELL / 2;
            float ndc = 2.0f * depth_buffer[y * width + x] - 1.0f;
            float inverse = (ndc * projection[11] - projection[10]) / projection[14] * UNITS_PER_NODE * DEPTH_SCALE;
            if (inverse < 0) inverse = -inverse;
            if (ndc >= 1.0f) inverse = 0;
            inverse_depth[row * columns + column] = inverse > 255.0f ? 255 : (uint8_t)(inverse + 0.5f);
        }
    }
    depth_is_read = 1;
}

static void send_frame(void) {
    int32_t size[2] = {0, 0};
    if ((flags & CAPTURE) && !depth_is_read) read_depth();
    if (flags & CAPTURE) {
        size[0] = width;
        size[1] = height;
        glPixelStorei(GL_PACK_ALIGNMENT, 1);
        glReadPixels(0, 0, width, height, GL_RGB, GL_UNSIGNED_BYTE, pixels);
    }
    send_all(size, sizeof size);
    if (size[0]) {
        send_all(pixels, (size_t)width * height * 3);
        send_all(inverse_depth, (size_t)(width / DEPTH_CELL) * (height / DEPTH_CELL));
    }
    depth_is_read = 0;
}

static void apply_input(const Command *command) {
    if (command->mouse_dx || command->mouse_dy)
        XTestFakeRelativeMotionEvent(input_display, command->mouse_dx, command->mouse_dy, 0);
    for (int i = 0; i < command->num_events; i++) {
        Event event;
        receive_all(&event, sizeof event);
        if (event.keysym_or_button <= MAX_MOUSE_BUTTON)
            XTestFakeButtonEvent(input_display, (unsigned)event.keysym_or_button, event.pressed, 0);
        else
            XTestFakeKeyEvent(input_display, XKeysymToKeycode(input_display, (KeySym)event.keysym_or_button),
                              event.pressed, 0);
    }
    /* The events must lie in the game's queue before it starts the next frame. */
    XSync(input_display, False);
}

void glXSwapBuffers(Display *display, GLXDrawable drawable) {
    static void (*real)(Display *, GLXDrawable);
    static int frame;
    if (!real) real = dlsym(RTLD_NEXT, "glXSwapBuffers");
    const char *path = getenv("GAMEGEN_HOOK_SOCKET");
    if (!path) {
        real(display, drawable);
        return;
    }
    if (connection < 0) connect_recorder(path);
    if (frame < FOCUS_FRAMES && frame % FOCUS_EVERY == 0) focus_game_window();
    frame++;

    send_frame();
    real(display, drawable);

    Command command;
    receive_all(&command, sizeof command);
    flags = command.flags;
    fog_end_nodes = command.fog_end_nodes;
    advance_clock(&command);
    apply_input(&command);
}

/* Fog nearer than the view range: the game has no message for it, so its own fog distances are replaced. */
void glFogf(GLenum name, GLfloat value) {
    static void (*real)(GLenum, GLfloat);
    if (!real) real = dlsym(RTLD_NEXT, "glFogf");
    if (fog_end_nodes > 0 && name == GL_FOG_END) value = fog_end_nodes * UNITS_PER_NODE;
    if (fog_end_nodes > 0 && name == GL_FOG_START) value = 0.0f;
    real(name, value);
}

void glLoadMatrixf(const GLfloat *matrix) {
    static void (*real)(const GLfloat *);
    if (!real) real = dlsym(RTLD_NEXT, "glLoadMatrixf");
    /* Of all matrices only a perspective projection takes w from z alone. */
    if (matrix[11] != 0.0f && matrix[15] == 0.0f) memcpy(projection, matrix, sizeof projection);
    real(matrix);
}

/* The world's depth goes when it is cleared for the held item, which has a projection of its own. */
void glClear(GLbitfield mask) {
    static void (*real)(GLbitfield);
    if (!real) real = dlsym(RTLD_NEXT, "glClear");
    if (connection >= 0 && (flags & CAPTURE) && (mask & GL_DEPTH_BUFFER_BIT) && !(mask & GL_COLOR_BUFFER_BIT) &&
        !depth_is_read)
        read_depth();
    real(mask);
}
