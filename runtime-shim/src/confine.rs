//! Locking in: what the shim takes from itself, and what it takes from the runtime before the runtime is executed.
//!
//! The filter allows by default and refuses, with EPERM, what user code in a container has no business with. It stands behind the user
//! (65532, no capabilities, no new privileges) and the namespaces: a hole in the kernel that needs one of these calls is out of reach.
//!
//! | refused | why |
//! |---|---|
//! | `mount`, `umount2`, `pivot_root`, `chroot`, the `fsopen` family, `mount_setattr`, `move_mount`, `open_tree` | other file systems |
//! | `unshare`, `clone` with a namespace flag, `setns`; `clone3` (ENOSYS, so that C libraries fall back to `clone`) | user namespaces give capabilities back |
//! | `bpf`, `perf_event_open`, `userfaultfd`, `io_uring_*` | the kernel's richest sources of holes |
//! | `ptrace`, `process_vm_*`, `kcmp`, `process_madvise`, `pidfd_getfd` | other processes of the same user |
//! | `keyctl`, `add_key`, `request_key` | key rings are not namespaced |
//! | `init_module`, `finit_module`, `delete_module`, `kexec_*` | the kernel itself |
//! | `open_by_handle_at`, `name_to_handle_at` | files outside of the mounts |
//! | `reboot`, `swapon`, `swapoff`, `acct`, `quotactl*`, `syslog`, `settimeofday`, `clock_settime`, `clock_adjtime`, `adjtimex`, `sethostname`, `setdomainname`, `vhangup`, `nfsservctl`, `lookup_dcookie`, `iopl`, `ioperm`, `personality` (but the usual one) | the machine |
//! | every call by its x32 number (on x86-64) | a second set of numbers for the calls above |

use std::collections::BTreeMap;
use std::io;

use rustix::process::DumpableBehavior;
use rustix::thread::CapabilitySet;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// What the shim itself needs to become another user for the runtime and to signal it.
const KEPT: [CapabilitySet; 3] = [CapabilitySet::SETUID, CapabilitySet::SETGID, CapabilitySet::KILL];

/// Every namespace that `clone` and `unshare` can make.
const NAMESPACES: [libc::c_int; 8] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    CLONE_NEWTIME,
];

/// `linux/sched.h`; the C library's own constants lack it.
const CLONE_NEWTIME: libc::c_int = 0x80;

/// `__X32_SYSCALL_BIT`: on x86-64 the same kernel functions have numbers with this bit too, for programs with 32-bit pointers, and the
/// architecture that a filter sees is the same. Nothing that runs in an instance is such a program.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// Refused whatever the arguments.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_setns,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    libc::SYS_nfsservctl,
    libc::SYS_lookup_dcookie,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

/// The filters of the runtime, compiled before the fork: between fork and exec nothing may allocate.
#[derive(Debug)]
pub(crate) struct Filters {
    programs: Vec<BpfProgram>,
}

impl Filters {
    /// Compiles the list above.
    pub(crate) fn compile() -> io::Result<Self> {
        let mut refused: BTreeMap<i64, Vec<SeccompRule>> =
            REFUSED.iter().map(|&number| (number, Vec::new())).collect();
        for call in [libc::SYS_clone, libc::SYS_unshare] {
            refused.insert(call, NAMESPACES.iter().map(|&flag| with_flag(flag)).collect::<Result<_, _>>()?);
        }
        // 0 is the usual execution domain; 0xffffffff asks which it is.
        let other_domain = vec![argument(SeccompCmpOp::Ne, 0)?, argument(SeccompCmpOp::Ne, 0xffff_ffff)?];
        refused
            .insert(libc::SYS_personality, vec![SeccompRule::new(other_domain).map_err(io::Error::other)?]);
        let absent = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        let eperm = libc::EPERM.unsigned_abs();
        let enosys = libc::ENOSYS.unsigned_abs();
        let refused = [second_numbers(eperm), program(refused, eperm)?].concat();
        Ok(Self { programs: vec![refused, program(absent, enosys)?] })
    }

    /// Applies them to this thread, for ever. Makes system calls only.
    pub(crate) fn apply(&self) -> io::Result<()> {
        for program in &self.programs {
            seccompiler::apply_filter(program)
                .map_err(|_| io::Error::from(io::ErrorKind::PermissionDenied))?;
        }
        Ok(())
    }
}

fn program(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: u32) -> io::Result<BpfProgram> {
    let arch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), arch)
        .and_then(TryInto::try_into)
        .map_err(io::Error::other)
}

/// Refuses every number from [`X32`] on and goes on to what follows otherwise. (`seccompiler` compares numbers for equality only.)
#[cfg(target_arch = "x86_64")]
fn second_numbers(errno: u32) -> BpfProgram {
    let instruction = |code: u32, k: u32, jt, jf| seccompiler::sock_filter {
        // Every code is less than 0x100.
        code: u16::try_from(code).unwrap_or_default(),
        jt,
        jf,
        k,
    };
    vec![
        // The number is the first field of `struct seccomp_data`.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, X32, 0, 1),
        instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno, 0, 0),
    ]
}

/// Other architectures have one set of numbers.
#[cfg(not(target_arch = "x86_64"))]
fn second_numbers(_errno: u32) -> BpfProgram {
    Vec::new()
}

/// A rule that holds when the first argument has this bit.
fn with_flag(flag: libc::c_int) -> io::Result<SeccompRule> {
    let bit = u64::from(flag.unsigned_abs());
    SeccompRule::new(vec![argument(SeccompCmpOp::MaskedEq(bit), bit)?]).map_err(io::Error::other)
}

fn argument(operator: SeccompCmpOp, value: u64) -> io::Result<SeccompCondition> {
    SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, value).map_err(io::Error::other)
}

/// Whether processes become another user than the shim. Where the container has taken root away already (a Pod), they have its user: what
/// is left to keep them apart is that the shim is not dumpable, and PID 1.
pub(crate) fn changes_user() -> bool {
    rustix::process::geteuid().is_root()
}

/// Locks the shim itself in: its memory (with the secret) cannot be read by the function's user, and nothing it executes gains rights.
pub(crate) fn lock_self() -> io::Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::thread::set_no_new_privs(true)?;
    if !changes_user() {
        // No capability to give away, and no right to bound what there is.
        return Ok(());
    }
    for bit in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if KEPT.contains(&capability) {
            continue;
        }
        // EINVAL: the kernel has no such capability. EPERM: the container has taken SETPCAP away already, and the bound with it.
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile() {
        assert_eq!(Filters::compile().unwrap().programs.len(), 2);
    }

    /// What the kernel answers to a system call without arguments on a thread with the filters; the thread ends with them.
    #[expect(unsafe_code, reason = "a system call by its number")]
    fn answer(number: libc::c_long) -> Option<i32> {
        let called = std::thread::spawn(move || {
            Filters::compile().unwrap().apply().unwrap();
            // SAFETY: without arguments neither `getpid` nor `mount` reads or writes memory of ours.
            let returned = unsafe { libc::syscall(number, 0, 0, 0, 0, 0) };
            (returned == -1).then(|| io::Error::last_os_error().raw_os_error().unwrap())
        });
        called.join().unwrap()
    }

    #[test]
    fn the_kernel_refuses_what_the_list_says_and_nothing_else() {
        assert_eq!(answer(libc::SYS_getpid), None);
        assert_eq!(answer(libc::SYS_mount), Some(libc::EPERM));
        assert_eq!(answer(libc::SYS_clone3), Some(libc::ENOSYS));
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn no_call_is_made_by_its_x32_number() {
        // Even a harmless one: without the filter a kernel says ENOSYS or the process's id.
        for number in [libc::SYS_getpid, libc::SYS_mount, libc::SYS_unshare] {
            assert_eq!(answer(libc::c_long::from(X32) + number), Some(libc::EPERM), "{number}");
        }
    }
}
