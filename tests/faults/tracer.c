/* Follows a process and all its threads and children, counts the system calls that touch files below a directory, and
 * makes the n-th of them fail, or kills the process before it. At the call itself: what makes it (Python, Rust without
 * a C library, a tool) does not matter, and what else the process reads and writes (its own modules, pipes) is not
 * counted.
 *
 * A seccomp filter stops the process at the calls of the table only; x86-64. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHANGES = 1, READS = 2, OPENS = 4 };
/* Which argument is a descriptor, which a path; -1 for none. A path is relative to the descriptor beside it. */
struct call { int number; const char *name; int kind, fd, path; };
#define CALL(name, kind, fd, path) { SYS_##name, #name, kind, fd, path }
static const struct call CALLS[] = {
    CALL(openat, OPENS, 0, 1), CALL(openat2, OPENS, 0, 1), CALL(open, OPENS, -1, 0), CALL(creat, CHANGES, -1, 0),
    CALL(write, CHANGES, 0, -1), CALL(pwrite64, CHANGES, 0, -1), CALL(writev, CHANGES, 0, -1),
    CALL(pwritev2, CHANGES, 0, -1), CALL(fsync, CHANGES, 0, -1), CALL(fdatasync, CHANGES, 0, -1),
    CALL(syncfs, CHANGES, 0, -1), CALL(sync_file_range, CHANGES, 0, -1), CALL(rename, CHANGES, -1, 0),
    CALL(renameat, CHANGES, 0, 1), CALL(renameat2, CHANGES, 0, 1), CALL(unlink, CHANGES, -1, 0),
    CALL(unlinkat, CHANGES, 0, 1), CALL(mkdir, CHANGES, -1, 0), CALL(mkdirat, CHANGES, 0, 1),
    CALL(rmdir, CHANGES, -1, 0), CALL(link, CHANGES, -1, 0), CALL(linkat, CHANGES, 0, 1),
    CALL(symlink, CHANGES, -1, 1), CALL(symlinkat, CHANGES, 1, 2), CALL(mknodat, CHANGES, 0, 1),
    CALL(truncate, CHANGES, -1, 0), CALL(ftruncate, CHANGES, 0, -1), CALL(fallocate, CHANGES, 0, -1),
    CALL(chmod, CHANGES, -1, 0), CALL(fchmod, CHANGES, 0, -1), CALL(fchmodat, CHANGES, 0, 1),
    CALL(chown, CHANGES, -1, 0), CALL(lchown, CHANGES, -1, 0), CALL(fchown, CHANGES, 0, -1),
    CALL(fchownat, CHANGES, 0, 1), CALL(setxattr, CHANGES, -1, 0), CALL(lsetxattr, CHANGES, -1, 0),
    CALL(fsetxattr, CHANGES, 0, -1), CALL(removexattr, CHANGES, -1, 0), CALL(lremovexattr, CHANGES, -1, 0),
    CALL(fremovexattr, CHANGES, 0, -1), CALL(utimensat, CHANGES, 0, 1), CALL(copy_file_range, CHANGES, 2, -1),
    CALL(sendfile, CHANGES, 0, -1), CALL(flock, CHANGES, 0, -1),
    CALL(read, READS, 0, -1), CALL(pread64, READS, 0, -1), CALL(readv, READS, 0, -1), CALL(getdents64, READS, 0, -1),
    CALL(fstat, READS, 0, -1), CALL(newfstatat, READS, 0, 1), CALL(statx, READS, 0, 1), CALL(stat, READS, -1, 0),
    CALL(lstat, READS, -1, 0), CALL(readlink, READS, -1, 0), CALL(readlinkat, READS, 0, 1),
    CALL(getxattr, READS, -1, 0), CALL(lgetxattr, READS, -1, 0), CALL(fgetxattr, READS, 0, -1),
    CALL(listxattr, READS, -1, 0), CALL(llistxattr, READS, -1, 0), CALL(flistxattr, READS, 0, -1),
    CALL(fstatfs, READS, 0, -1), CALL(statfs, READS, -1, 0), CALL(ioctl, READS, 0, -1), CALL(access, READS, -1, 0),
    CALL(faccessat, READS, 0, 1), CALL(faccessat2, READS, 0, 1), CALL(mmap, READS, 4, -1),
};
enum { NUMBER_OF_CALLS = sizeof CALLS / sizeof *CALLS };

/* What is to happen, and what did. Python has the same structure. */
struct order {
    const char *below;  /* The directory, without a slash at its end. */
    int kinds;          /* CHANGES, READS or both. */
    long at;            /* Which call; 0 only counts. */
    int error;          /* errno; 0 kills. */
    int sticky;         /* That call and all after it. */
    int log;            /* A line for every call goes to this descriptor; -1: none. */
    long count;
    int exit_code;      /* 128 + n where signal n ended it. */
    char name[32];
    char path[1024];
};

/* In the child, before it does what is to be followed; returns once the parent follows. */
int tracer_follow_me(void)
{
    struct sock_filter filter[2 * NUMBER_OF_CALLS + 2];
    unsigned short n = 0;
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (int i = 0; i < NUMBER_OF_CALLS; i++) {
        filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, CALLS[i].number, 0, 1);
        filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE);
    }
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = { n, filter };
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || ptrace(PTRACE_TRACEME, 0, 0, 0))
        return -1;
    raise(SIGSTOP);
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static unsigned long argument(const struct user_regs_struct *regs, int index)
{
    const unsigned long values[] = { regs->rdi, regs->rsi, regs->rdx, regs->r10, regs->r8, regs->r9 };
    return values[index];
}

static void read_text(pid_t pid, unsigned long address, char *out, size_t size)
{
    memset(out, 0, size);
    /* By pages, since the next one may not be there. */
    for (size_t done = 0; done < size - 1;) {
        size_t step = 4096 - ((address + done) & 4095);
        if (step > size - 1 - done)
            step = size - 1 - done;
        struct iovec local = { out + done, step }, remote = { (void *)(address + done), step };
        if (process_vm_readv(pid, &local, 1, &remote, 1, 0) <= 0 || memchr(out + done, 0, step))
            return;
        done += step;
    }
}

static void read_descriptor(pid_t pid, int fd, char *out, size_t size)
{
    char link[64];
    if (fd == AT_FDCWD)
        snprintf(link, sizeof link, "/proc/%d/cwd", pid);
    else
        snprintf(link, sizeof link, "/proc/%d/fd/%d", pid, fd);
    ssize_t length = readlink(link, out, size - 1);
    out[length < 0 ? 0 : length] = 0;
}

/* The file that a call is about, as far as its arguments tell. */
static void find_path(pid_t pid, const struct call *call, const struct user_regs_struct *regs, char *out, size_t size)
{
    char text[PATH_MAX] = "", base[PATH_MAX] = "";
    int fd;
    if (call->path >= 0)
        read_text(pid, argument(regs, call->path), text, sizeof text);
    if (sscanf(text, "/proc/self/fd/%d", &fd) == 1 || sscanf(text, "/dev/fd/%d", &fd) == 1) {
        read_descriptor(pid, fd, out, size);
        return;
    }
    if (*text == '/') {
        snprintf(out, size, "%s", text);
        return;
    }
    read_descriptor(pid, call->fd < 0 ? AT_FDCWD : (int)argument(regs, call->fd), base, sizeof base);
    snprintf(out, size, *text ? "%s/%s" : "%s", base, text);
}

static int kind_of(pid_t pid, const struct call *call, const struct user_regs_struct *regs)
{
    if (call->kind != OPENS)
        return call->kind;
    unsigned long flags = argument(regs, call->path + 1);
    if (call->number == SYS_openat2) {
        struct iovec local = { &flags, sizeof flags }, remote = { (void *)argument(regs, 2), sizeof flags };
        if (process_vm_readv(pid, &local, 1, &remote, 1, 0) < 0)
            flags = 0;
    }
    return flags & (O_CREAT | O_TRUNC) || (flags & O_TMPFILE) == O_TMPFILE ? CHANGES : READS;
}

static void stopped_at_call(pid_t child, pid_t pid, struct order *order)
{
    struct user_regs_struct regs;
    const struct call *call = CALLS;
    char path[2 * PATH_MAX];
    size_t length = strlen(order->below);
    ptrace(PTRACE_GETREGS, pid, 0, &regs);
    while (call->number != (int)regs.orig_rax)
        call++;
    if (!(kind_of(pid, call, &regs) & order->kinds))
        return;
    find_path(pid, call, &regs, path, sizeof path);
    if (strncmp(path, order->below, length) || (path[length] && path[length] != '/'))
        return;
    order->count++;
    if (order->log >= 0)
        dprintf(order->log, "%ld %s %s\n", order->count, call->name, path + length);
    if (!order->at || (order->sticky ? order->count < order->at : order->count != order->at))
        return;
    if (order->count == order->at) {
        snprintf(order->name, sizeof order->name, "%s", call->name);
        snprintf(order->path, sizeof order->path, "%.1000s", path + length);
    }
    if (!order->error) {
        kill(child, SIGKILL);
        return;
    }
    regs.orig_rax = -1; /* No call is made. */
    regs.rax = -(long)order->error;
    ptrace(PTRACE_SETREGS, pid, 0, &regs);
}

/* In the parent: follow to the end. */
int tracer_follow(pid_t child, struct order *order)
{
    int status;
    if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status))
        return -1;
    if (ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_TRACESECCOMP | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK
                   | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL))
        return -1;
    ptrace(PTRACE_CONT, child, 0, 0);
    order->exit_code = -1;
    for (;;) {
        pid_t pid = waitpid(-1, &status, __WALL);
        if (pid < 0)
            return errno == ECHILD ? 0 : -1;
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (pid == child)
                order->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            continue;
        }
        int signal_number = WSTOPSIG(status);
        if (signal_number == SIGTRAP && status >> 16 == PTRACE_EVENT_SECCOMP)
            stopped_at_call(child, pid, order);
        /* Stops of ptrace itself and the first stop of a new thread are not the process's business. */
        ptrace(PTRACE_CONT, pid, 0, signal_number == SIGTRAP || signal_number == SIGSTOP ? 0 : signal_number);
    }
}
