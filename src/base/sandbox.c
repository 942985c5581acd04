/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sandbox. kekd-net may make the calls that its work needs; the others fail, as they would on
 * an older kernel, so that a library which tries something new falls back to what it knows. A
 * worker runs a vendor's module, of which nobody knows what it needs: it is denied what no module
 * has business with. What only an intruder would call ends the process at once. The parent's table
 * is a part of its children's, since they inherit it.
 */
#include "kekd/sandbox.h"

#include "kekd/log.h"
#include "kekd/str.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#ifdef HAVE_SECCOMP
#include <seccomp.h>
#endif

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#endif

#define ALWAYS(action_, error_, calls_) \
	{ \
		.action = SANDBOX_##action_, .error = (error_), .calls = (calls_) \
	}
#define EQUAL(action_, error_, calls_, arg_, value_) \
	{ \
		.action = SANDBOX_##action_, .error = (error_), .calls = (calls_), \
		.match = SANDBOX_EQUAL, .arg = (arg_), .value = (uint64_t)(value_) \
	}
#define BITS(action_, error_, calls_, arg_, mask_, value_) \
	{ \
		.action = SANDBOX_##action_, .error = (error_), .calls = (calls_), \
		.match = SANDBOX_BITS, .arg = (arg_), .mask = (uint64_t)(mask_), \
		.value = (uint64_t)(value_) \
	}
#define END \
	{ \
		.calls = NULL \
	}

/* Of no use to any of the processes, nor to a PKCS#11 module: other processes' memory, the kernel's
 * own business, mounts and namespaces, tracing. */
static const struct sandbox_set hostile[] = {
	ALWAYS(KILL, 0, "ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd"),
	ALWAYS(KILL, 0, "bpf perf_event_open userfaultfd lookup_dcookie"),
	ALWAYS(KILL, 0,
		"init_module finit_module delete_module create_module kexec_load "
		"kexec_file_load reboot swapon swapoff acct quotactl quotactl_fd syslog "
		"nfsservctl vhangup uselib iopl ioperm modify_ldt vm86 vm86old"),
	ALWAYS(KILL, 0,
		"mount umount umount2 move_mount open_tree fsopen fsconfig fsmount fspick "
		"mount_setattr pivot_root chroot unshare setns open_by_handle_at"),
	ALWAYS(KILL, 0, "settimeofday clock_settime stime sethostname setdomainname"),
	EQUAL(KILL, 0, "socket", 0, AF_AX25),
	EQUAL(KILL, 0, "socket", 0, AF_IPX),
	EQUAL(KILL, 0, "socket", 0, AF_APPLETALK),
	EQUAL(KILL, 0, "socket", 0, AF_X25),
	EQUAL(KILL, 0, "socket", 0, AF_KEY),
	EQUAL(KILL, 0, "socket", 0, AF_PACKET),
	EQUAL(KILL, 0, "socket", 0, AF_RDS),
	EQUAL(KILL, 0, "socket", 0, AF_PPPOX),
	EQUAL(KILL, 0, "socket", 0, AF_LLC),
	EQUAL(KILL, 0, "socket", 0, AF_CAN),
	EQUAL(KILL, 0, "socket", 0, AF_TIPC),
	EQUAL(KILL, 0, "socket", 0, AF_BLUETOOTH),
	EQUAL(KILL, 0, "socket", 0, AF_RXRPC),
	EQUAL(KILL, 0, "socket", 0, AF_PHONET),
	EQUAL(KILL, 0, "socket", 0, AF_IEEE802154),
	EQUAL(KILL, 0, "socket", 0, AF_NFC),
	EQUAL(KILL, 0, "socket", 0, AF_KCM),
	EQUAL(KILL, 0, "socket", 0, AF_QIPCRTR),
	EQUAL(KILL, 0, "socket", 0, AF_SMC),
	EQUAL(KILL, 0, "socket", 0, AF_XDP),
	END,
};

/* What a library may try, and does without. */
static const struct sandbox_set needless[] = {
	ALWAYS(REFUSE, ENOSYS, "io_uring_setup io_uring_enter io_uring_register clone3"),
	ALWAYS(REFUSE, ENOSYS, "add_key keyctl request_key name_to_handle_at personality"),
	ALWAYS(REFUSE, EPERM, "mknod mknodat adjtimex clock_adjtime"),
	EQUAL(REFUSE, EAFNOSUPPORT, "socket", 0, AF_ALG),
	BITS(REFUSE, EPERM, "clone", 0, CLONE_NEWUSER, CLONE_NEWUSER),
	BITS(REFUSE, EPERM, "clone", 0, CLONE_NEWNS, CLONE_NEWNS),
	BITS(REFUSE, EPERM, "clone", 0, CLONE_NEWNET, CLONE_NEWNET),
	BITS(REFUSE, EPERM, "clone", 0, CLONE_NEWPID, CLONE_NEWPID),
	BITS(REFUSE, EPERM, "mmap mmap2 mprotect pkey_mprotect", 2, PROT_WRITE | PROT_EXEC,
		PROT_WRITE | PROT_EXEC),
	END,
};

/* Once it is logged in. A module that starts helpers does so before; one that listens is none. */
static const struct sandbox_set worker[] = {
	ALWAYS(REFUSE, EPERM, "execve execveat listen accept accept4"),
	ALWAYS(REFUSE, EPERM,
		"setuid setgid setreuid setregid setresuid setresgid setgroups "
		"setfsuid setfsgid capset"),
	EQUAL(REFUSE, EPERM, "prctl", 0, PR_SET_DUMPABLE),
	EQUAL(REFUSE, EPERM, "prctl", 0, PR_SET_PTRACER),
	END,
};

static const struct sandbox_set offline[] = {
	EQUAL(REFUSE, EAFNOSUPPORT, "socket", 0, AF_INET),
	EQUAL(REFUSE, EAFNOSUPPORT, "socket", 0, AF_INET6),
	EQUAL(REFUSE, EAFNOSUPPORT, "socket", 0, AF_NETLINK),
	EQUAL(REFUSE, EAFNOSUPPORT, "socket", 0, AF_VSOCK),
	END,
};

static const struct sandbox_set net[] = {
	ALWAYS(KILL, 0, "execve execveat fork vfork"),
	ALWAYS(KILL, 0,
		"setuid setgid setreuid setregid setresuid setresgid setgroups setfsuid "
		"setfsgid capset"),
	BITS(KILL, 0, "clone", 0, CLONE_THREAD, 0),
	BITS(ALLOW, 0, "clone", 0, CLONE_THREAD, CLONE_THREAD),
	/* Descriptors. */
	ALWAYS(ALLOW, 0,
		"read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 "
		"lseek _llseek close close_range dup dup2 dup3 fcntl fcntl64 poll ppoll "
		"ppoll_time64 select _newselect pselect6 pselect6_time64 epoll_create1 "
		"epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd2 pipe pipe2 "
		"signalfd4 timerfd_create timerfd_settime timerfd_gettime sendfile "
		"sendfile64 splice"),
	EQUAL(ALLOW, 0, "ioctl", 1, TCGETS),
	EQUAL(ALLOW, 0, "ioctl", 1, FIONBIO),
	EQUAL(ALLOW, 0, "ioctl", 1, FIONREAD),
	/* Files: SQLite, the audit log, certificates. */
	ALWAYS(ALLOW, 0,
		"open openat openat2 stat fstat lstat newfstatat fstatat64 stat64 fstat64 "
		"lstat64 statx statfs fstatfs statfs64 fstatfs64 access faccessat "
		"faccessat2 readlink readlinkat getdents getdents64 getcwd mkdir mkdirat "
		"rmdir unlink unlinkat rename renameat renameat2 link linkat truncate "
		"ftruncate truncate64 ftruncate64 fallocate fadvise64 fadvise64_64 fsync "
		"fdatasync sync_file_range flock fchmod fchown fchown32 utimensat "
		"utimensat_time64 umask inotify_init1 inotify_add_watch "
		"inotify_rm_watch"),
	/* Memory, none of it to be run. */
	BITS(ALLOW, 0, "mmap mmap2 mprotect", 2, PROT_EXEC, 0),
	BITS(REFUSE, EPERM, "mmap mmap2 mprotect", 2, PROT_EXEC, PROT_EXEC),
	ALWAYS(ALLOW, 0, "munmap mremap madvise mlock mlock2 munlock mincore msync brk membarrier"),
	/* Threads, signals, time, and asking who one is. */
	ALWAYS(ALLOW, 0,
		"futex futex_time64 futex_waitv set_robust_list get_robust_list rseq "
		"set_tid_address gettid getpid getppid getpgid getpgrp getsid tgkill "
		"sched_yield sched_getaffinity sched_getparam sched_getscheduler "
		"sched_get_priority_max sched_get_priority_min getcpu exit exit_group "
		"restart_syscall"),
	ALWAYS(ALLOW, 0,
		"rt_sigaction rt_sigprocmask rt_sigreturn sigreturn sigaltstack "
		"rt_sigpending rt_sigtimedwait rt_sigtimedwait_time64 rt_sigsuspend"),
	ALWAYS(ALLOW, 0,
		"nanosleep clock_nanosleep clock_nanosleep_time64 clock_gettime "
		"clock_gettime64 clock_getres clock_getres_time64 gettimeofday time times "
		"getrusage getrlimit ugetrlimit prlimit64 setrlimit sysinfo uname "
		"getrandom getuid geteuid getgid getegid getuid32 geteuid32 getgid32 "
		"getegid32 getresuid getresgid getgroups capget"),
	EQUAL(ALLOW, 0, "prctl", 0, PR_SET_NAME),
	EQUAL(ALLOW, 0, "prctl", 0, PR_GET_NAME),
	EQUAL(ALLOW, 0, "prctl", 0, PR_SET_VMA),
	EQUAL(ALLOW, 0, "prctl", 0, PR_GET_DUMPABLE),
	EQUAL(ALLOW, 0, "prctl", 0, PR_CAPBSET_READ),
	/* Sockets that the parent made. */
	ALWAYS(ALLOW, 0,
		"accept accept4 recvfrom recvmsg recvmmsg sendto sendmsg sendmmsg shutdown "
		"getsockopt setsockopt getsockname getpeername"),
	ALWAYS(REFUSE, EPERM, "listen"),
	END,
};

/* None of its own. */
static const struct sandbox_set net_alone[] = {
	ALWAYS(REFUSE, EPERM, "connect bind"),
	END,
};

/* To etcd, and to the name service: netlink tells it which addresses this host has. */
static const struct sandbox_set net_etcd[] = {
	ALWAYS(ALLOW, 0, "connect bind"),
	EQUAL(ALLOW, 0, "socket", 0, AF_INET),
	EQUAL(ALLOW, 0, "socket", 0, AF_INET6),
	EQUAL(ALLOW, 0, "socket", 0, AF_UNIX),
	EQUAL(ALLOW, 0, "socket", 0, AF_NETLINK),
	EQUAL(ALLOW, 0, "socketpair", 0, AF_UNIX),
	END,
};

/* Of its socket, on SIGHUP. */
static const struct sandbox_set kms[] = {
	ALWAYS(ALLOW, 0, "chmod fchmodat lchown lchown32 fchownat"),
	END,
};

static const struct profile {
	const char *name;
	enum sandbox_action other;
	const struct sandbox_set *parts[4];
} profiles[SANDBOX_COUNT] = {
	[SANDBOX_PARENT] = { "kekd", SANDBOX_ALLOW, { hostile, needless } },
	[SANDBOX_NET] = { "kekd-net", SANDBOX_REFUSE, { hostile, net, net_alone } },
	[SANDBOX_NET_ETCD] = { "kekd-net with etcd", SANDBOX_REFUSE, { hostile, net, net_etcd } },
	[SANDBOX_WORKER] = { "kekd-hsm", SANDBOX_ALLOW, { hostile, needless, worker } },
	[SANDBOX_WORKER_OFFLINE] = { "kekd-hsm, offline", SANDBOX_ALLOW,
		{ hostile, needless, worker, offline } },
	[SANDBOX_KMS] = { "kekd-kms", SANDBOX_REFUSE, { hostile, net, net_etcd, kms } },
};

const struct sandbox_set *
sandbox_set(enum sandbox_who who, size_t i)
{
	const struct profile *p = &profiles[who];

	for (size_t k = 0; k < STR_COUNT(p->parts) && p->parts[k]; k++)
		for (const struct sandbox_set *s = p->parts[k]; s->calls; s++)
			if (i-- == 0)
				return s;
	return NULL;
}

void
sandbox_harden(void)
{
	const struct rlimit none = { 0, 0 };

	setrlimit(RLIMIT_CORE, &none);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
#if !defined(KEKD_SANITIZERS) && !defined(KEKD_COVERAGE)
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
#endif
}

#if defined(HAVE_SECCOMP) && !defined(KEKD_SANITIZERS) && !defined(KEKD_COVERAGE)

static uint32_t
action_of(enum sandbox_action action, int error)
{
	switch (action) {
	case SANDBOX_ALLOW:
		return SCMP_ACT_ALLOW;
	case SANDBOX_REFUSE:
		return SCMP_ACT_ERRNO((uint32_t)(error ? error : EPERM));
	case SANDBOX_KILL:
		break;
	}
	return SCMP_ACT_KILL_PROCESS;
}

static int
add_call(scmp_filter_ctx filter, const struct sandbox_set *s, const char *name)
{
	struct scmp_arg_cmp cmp = { .arg = s->arg };
	int number = seccomp_syscall_resolve_name(name);

	if (number < 0)
		return 0; /* not on this kind of machine */
	if (s->match == SANDBOX_BITS) {
		cmp.op = SCMP_CMP_MASKED_EQ;
		cmp.datum_a = s->mask;
		cmp.datum_b = s->value;
	} else {
		cmp.op = SCMP_CMP_EQ;
		cmp.datum_a = s->value;
	}
	return seccomp_rule_add_array(filter, action_of(s->action, s->error), number,
		s->match == SANDBOX_ALWAYS ? 0 : 1, s->match == SANDBOX_ALWAYS ? NULL : &cmp);
}

static int
add_set(scmp_filter_ctx filter, const struct sandbox_set *s)
{
	int err = 0;

	for (const char *p = s->calls; *p && !err;) {
		char name[48] = "";
		size_t n = strcspn(p, " ");

		memcpy(name, p, n < sizeof(name) ? n : sizeof(name) - 1);
		err = add_call(filter, s, name);
		p += n + strspn(p + n, " ");
	}
	return err;
}

static int
build(scmp_filter_ctx filter, enum sandbox_who who)
{
	const struct sandbox_set *s;
	int err = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);

	if (!err)
		err = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
	/* What is refused shows in the kernel's log; older kernels cannot. */
	(void)seccomp_attr_set(filter, SCMP_FLTATR_CTL_LOG, 1);
	(void)seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	for (size_t i = 0; !err && (s = sandbox_set(who, i)); i++)
		err = add_set(filter, s);
	return err;
}

int
sandbox_enter(enum sandbox_who who)
{
	const struct profile *p = &profiles[who];
	scmp_filter_ctx filter = seccomp_init(action_of(p->other, ENOSYS));
	int err = filter ? build(filter, who) : -ENOMEM;

	if (!err)
		err = seccomp_load(filter);
	if (filter)
		seccomp_release(filter);
	if (err == -ENOSYS || err == -EOPNOTSUPP) {
		log_warning("this kernel filters no system calls: %s runs without", p->name);
		return 0;
	}
	if (err)
		log_error("the filter of system calls of %s cannot be installed: %s: build with "
			  "--without-seccomp where the system forbids it",
			p->name, strerror(-err));
	return err;
}

#else

int
sandbox_enter(enum sandbox_who who)
{
	log_info("%s is built without a filter of system calls", profiles[who].name);
	return 0;
}

#endif
