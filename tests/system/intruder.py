# SPDX-License-Identifier: Apache-2.0
"""Has a process make a system call that its code would not, as an intruder in it could: ptrace(2)
on x86-64, through registers and one instruction that is put back afterwards."""

import ctypes
import os
import signal

CALLS = {"execve": 59, "ptrace": 101, "socket": 41, "mount": 165, "getpid": 39}

PEEK, POKE, STEP, GETREGS, SETREGS, ATTACH, DETACH = 1, 4, 9, 12, 13, 16, 17
SYSCALL = 0x050f  # the instruction, little-endian

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

NAMES = ("r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss "
         "fs_base gs_base ds es fs gs").split()


class Registers(ctypes.Structure):  # user_regs_struct
    _fields_ = [(name, ctypes.c_ulonglong) for name in NAMES]


def ptrace(request, pid, address=None, data=None):
    ctypes.set_errno(0)
    result = libc.ptrace(request, pid, address, data)
    if ctypes.get_errno():
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result & (1 << 64) - 1


def stopped(pid):
    """Waits; False: the process ended instead."""
    return os.WIFSTOPPED(os.waitpid(pid, 0x40000000)[1])  # __WALL


def step_over(pid, before, number, arguments):
    """One system call in the place of the next instruction: its result, or None."""
    registers = Registers.from_buffer_copy(before)
    registers.rax, registers.orig_rax = number, (1 << 64) - 1
    for name, value in zip(("rdi", "rsi", "rdx", "r10"), arguments):
        setattr(registers, name, value)
    word = ptrace(PEEK, pid, before.rip)
    ptrace(POKE, pid, before.rip, word & ~0xffff | SYSCALL)
    ptrace(SETREGS, pid, None, ctypes.addressof(registers))
    ptrace(STEP, pid)
    if not stopped(pid):
        return None
    ptrace(GETREGS, pid, None, ctypes.addressof(registers))
    ptrace(POKE, pid, before.rip, word)
    ptrace(SETREGS, pid, None, ctypes.addressof(before))
    return ctypes.c_longlong(registers.rax).value


def intrude(pid, call, *arguments):
    """What the call gave, a negative errno if it failed; or None: the process ended by it."""
    before = Registers()
    ptrace(ATTACH, pid)
    assert stopped(pid), "it ended before"
    ptrace(GETREGS, pid, None, ctypes.addressof(before))
    result = step_over(pid, before, CALLS[call], arguments)
    if result is not None:
        ptrace(DETACH, pid, None, signal.SIGCONT)
    return result
