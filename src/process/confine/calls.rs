//! The filter of system calls (seccomp(2)) of engine and side: a list of what neither does, refused with EPERM.
//!
//! A list of what is allowed would be shorter for an attacker, and would end a call the day a library takes another way. The kernel
//! remembers which calls the filter always allows, so that these cost nothing.

use libc::c_long;
use seccompiler::sock_filter;

/// `AUDIT_ARCH_X86_64`, `AUDIT_ARCH_AARCH64`.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Numbers of the x32 ABI, which name the same calls a second time.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

const LOAD_WORD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;
/// `struct seccomp_data`: number, architecture, instruction pointer, arguments (the low half of each comes first).
const AT_NUMBER: u32 = 0;
const AT_ARCHITECTURE: u32 = 4;
const AT_FIRST_ARGUMENT: u32 = 16;

const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const fn refuse(errno: i32) -> u32 {
    0x0005_0000 | errno.cast_unsigned()
}

/// Other programs, other processes, other name spaces, the machine, more rights, another ring.
const REFUSED: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_mknodat,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_vhangup,
    libc::SYS_personality,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_io_uring_setup,
];

/// What other architectures never had.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_mknod,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[c_long] = &[];

/// Sockets of everything else (packets, crypto, virtual machines) are refused.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// For all threads of this process, those that are there and those to come.
pub fn give_up() -> Result<(), String> {
    seccompiler::apply_filter_all_threads(&program()).map_err(|error| format!("the filter of system calls: {error}"))
}

fn program() -> Vec<sock_filter> {
    let mut program = vec![
        load(AT_ARCHITECTURE),
        step(JUMP_EQUAL, 1, 0, ARCHITECTURE),
        step(RETURN, 0, 0, KILL_PROCESS),
        load(AT_NUMBER),
    ];
    #[cfg(target_arch = "x86_64")]
    program.extend([step(JUMP_AT_LEAST, 0, 1, X32), step(RETURN, 0, 0, refuse(libc::ENOSYS))]);
    for number in REFUSED.iter().chain(REFUSED_HERE) {
        program.extend([is(*number, 1), step(RETURN, 0, 0, refuse(libc::EPERM))]);
    }
    // Its arguments lie in memory, where a filter cannot look: the C library takes clone then.
    program.extend([is(libc::SYS_clone3, 1), step(RETURN, 0, 0, refuse(libc::ENOSYS))]);
    // A thread, but no process.
    program.extend([
        is(libc::SYS_clone, 4),
        load(AT_FIRST_ARGUMENT),
        step(JUMP_ANY_BIT, 1, 0, libc::CLONE_THREAD.cast_unsigned()),
        step(RETURN, 0, 0, refuse(libc::EPERM)),
        step(RETURN, 0, 0, ALLOW),
    ]);
    program.extend([is(libc::SYS_socket, 2 + FAMILIES.len() as u8), load(AT_FIRST_ARGUMENT)]);
    for (left, family) in (1..=FAMILIES.len() as u8).rev().zip(FAMILIES) {
        program.push(step(JUMP_EQUAL, left, 0, family.cast_unsigned()));
    }
    program.extend([step(RETURN, 0, 0, refuse(libc::EPERM)), step(RETURN, 0, 0, ALLOW)]);
    program
}

/// Goes on if the number is this one, else behind the next `skipped` steps.
fn is(number: c_long, skipped: u8) -> sock_filter {
    step(JUMP_EQUAL, 0, skipped, u32::try_from(number).unwrap_or(u32::MAX))
}

fn load(at: u32) -> sock_filter {
    step(LOAD_WORD, 0, 0, at)
}

fn step(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program says to a call, as the kernel would run it.
    fn verdict(architecture: u32, number: u32, argument: u32) -> u32 {
        let (program, mut at, mut word) = (program(), 0, 0);
        loop {
            let step = &program[at];
            at += 1;
            let jump = |is_true: bool| usize::from(if is_true { step.jt } else { step.jf });
            match step.code {
                LOAD_WORD => {
                    word = match step.k {
                        AT_NUMBER => number,
                        AT_ARCHITECTURE => architecture,
                        _ => argument,
                    }
                }
                JUMP_EQUAL => at += jump(word == step.k),
                JUMP_AT_LEAST => at += jump(word >= step.k),
                JUMP_ANY_BIT => at += jump(word & step.k != 0),
                _ => return step.k,
            }
        }
    }

    fn of(number: c_long, argument: i32) -> u32 {
        verdict(ARCHITECTURE, number as u32, argument.cast_unsigned())
    }

    #[test]
    fn the_program_says_what_the_list_says() {
        for number in REFUSED.iter().chain(REFUSED_HERE) {
            assert_eq!(of(*number, 0), refuse(libc::EPERM), "{number}");
        }
        for number in [libc::SYS_read, libc::SYS_io_uring_enter, libc::SYS_openat, libc::SYS_futex, libc::SYS_tgkill] {
            assert_eq!(of(number, 0), ALLOW, "{number}");
        }
        assert_eq!(of(libc::SYS_clone3, 0), refuse(libc::ENOSYS));
        assert_eq!(of(libc::SYS_clone, libc::CLONE_THREAD | libc::CLONE_VM), ALLOW);
        assert_eq!(of(libc::SYS_clone, libc::CLONE_VM | libc::SIGCHLD), refuse(libc::EPERM));
        for family in FAMILIES {
            assert_eq!(of(libc::SYS_socket, family), ALLOW, "{family}");
        }
        for family in [libc::AF_PACKET, libc::AF_ALG, libc::AF_VSOCK] {
            assert_eq!(of(libc::SYS_socket, family), refuse(libc::EPERM), "{family}");
        }
        assert_eq!(verdict(ARCHITECTURE + 1, 0, 0), KILL_PROCESS);
        #[cfg(target_arch = "x86_64")]
        assert_eq!(verdict(ARCHITECTURE, X32 | libc::SYS_execve as u32, 0), refuse(libc::ENOSYS));
    }
}
