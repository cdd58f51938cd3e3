use super::*;

const HYBRID: &str = "\
24 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
25 24 0:23 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
26 24 0:24 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct
27 24 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
28 24 0:26 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
29 24 0:27 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
30 24 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
31 24 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";

const LIMITS: Limits =
    Limits { memory_bytes: 128 << 20, cpu_millis: Some(500), tmp_bytes: 1 << 20, pids: 64, patient: false };

/// A v2 tree in an ordinary directory. The kernel makes a group's files with the group; here the test does.
fn v2_in(directory: &Path) -> Layout {
    fs::write(directory.join("cgroup.subtree_control"), "").unwrap();
    for group in ["hearth", "hearth/abc"] {
        fs::create_dir_all(directory.join(group)).unwrap();
        fs::write(directory.join(group).join("cgroup.subtree_control"), "").unwrap();
    }
    let mounts = format!("31 24 0:29 / {} rw - cgroup2 cgroup2 rw\n", directory.display());
    Layout::parse(&mounts, |_| "cpuset cpu io memory pids".to_owned())
}

fn group_in(directory: &Path) -> (Parent, Group, PathBuf) {
    let parent = Parent::create(v2_in(directory), "abc").unwrap();
    let group = parent.group("one");
    let path = directory.join("hearth/abc/one");
    fs::create_dir(&path).unwrap();
    for file in
        ["memory.max", "memory.swap.max", "pids.max", "cpu.max", "cpu.weight", "cgroup.freeze", "cgroup.kill"]
    {
        fs::write(path.join(file), "").unwrap();
    }
    (parent, group, path)
}

#[test]
fn the_layout_is_read_from_the_mounts() {
    let hybrid = Layout::parse(HYBRID, |_| String::new());
    assert_eq!(hybrid.describe(), "hybrid: v1 controllers, v2 for freezing and killing");
    let trees = hybrid.trees();
    assert!(trees.contains(&PathBuf::from("/sys/fs/cgroup/unified")));
    assert!(!trees.contains(&PathBuf::from("/sys/fs/cgroup/freezer")), "the v2 tree freezes");
    assert!(!trees.contains(&PathBuf::from("/sys/fs/cgroup/systemd")));

    let v1_only: String =
        HYBRID.lines().filter(|line| !line.contains("cgroup2")).map(|line| format!("{line}\n")).collect();
    let v1 = Layout::parse(&v1_only, |_| String::new());
    assert_eq!(v1.describe(), "v1");
    assert!(v1.trees().contains(&PathBuf::from("/sys/fs/cgroup/freezer")));

    let together = "9 1 0:9 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
    assert_eq!(Layout::parse(together, |_| String::new()).trees().len(), 1);

    let v2 = Layout::parse("31 24 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", |_| {
        "cpu memory pids".to_owned()
    });
    assert_eq!(v2.describe(), "v2");
    assert_eq!(v2.handed_down(), "+cpu +memory +pids");
    assert!(v2.has(Controller::CpuAccount) && v2.freezes());
}

#[test]
fn v2_hands_its_controllers_down_and_takes_limits() {
    let directory = tempfile::tempdir().unwrap();
    let (_, group, path) = group_in(directory.path());
    let read = |file: &str| fs::read_to_string(path.join(file)).unwrap();
    for parent in ["", "hearth", "hearth/abc"] {
        let file = directory.path().join(parent).join("cgroup.subtree_control");
        assert_eq!(fs::read_to_string(file).unwrap(), "+cpu +memory +pids");
    }
    group.limit(&LIMITS).unwrap();
    assert_eq!(read("memory.max"), (128 << 20).to_string());
    assert_eq!(read("memory.swap.max"), "0");
    assert_eq!(read("pids.max"), "64");
    assert_eq!(read("cpu.max"), "50000 100000");
    assert_eq!(read("cpu.weight"), "20");
    // The kernel's files are written anew each time; these are not.
    let again = |file: &str| fs::write(path.join(file), "").unwrap();
    again("cpu.max");
    again("cpu.weight");
    group.limit(&Limits { cpu_millis: None, ..LIMITS }).unwrap();
    assert_eq!(read("cpu.max"), "max 100000");
    assert_eq!(read("cpu.weight"), "39");
    again("cpu.max");
    again("cpu.weight");
    group.limit(&Limits { cpu_millis: None, patient: true, ..LIMITS }).unwrap();
    assert_eq!(read("cpu.weight"), "3", "a sixteenth of the shares");
    assert_eq!(group.process_files(), [path.join("cgroup.procs")]);
}

#[test]
fn v2_freezes_counts_and_tells_of_memory_kills() {
    let directory = tempfile::tempdir().unwrap();
    let (_, group, path) = group_in(directory.path());
    let write = |file: &str, text: &str| fs::write(path.join(file), text).unwrap();
    write("cgroup.events", "populated 1\nfrozen 1\n");
    group.freeze().unwrap();
    assert_eq!(fs::read_to_string(path.join("cgroup.freeze")).unwrap(), "1");
    group.thaw().unwrap();
    assert_eq!(fs::read_to_string(path.join("cgroup.freeze")).unwrap(), "0");

    write("memory.events", "low 0\nhigh 0\nmax 12\noom 1\noom_kill 0\n");
    assert!(!group.out_of_memory());
    write("memory.events", "low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0\n");
    assert!(group.out_of_memory());

    write("cpu.stat", "usage_usec 1500000\nuser_usec 1000000\n");
    write("memory.current", "4096\n");
    write("memory.peak", "8192\n");
    write("pids.current", "3\n");
    write("pids.events", "max 7\n");
    let stats = group.stats();
    let expected = Stats {
        cpu: Duration::from_millis(1500),
        memory_bytes: 4096,
        memory_peak_bytes: 8192,
        pids: 3,
        pids_refused: 7,
    };
    assert_eq!(stats, expected);
}

#[test]
fn shares_become_weights_as_elsewhere() {
    assert_eq!(weight(2), 1);
    assert_eq!(weight(1024), 39);
    assert_eq!(weight(512), 20);
    assert_eq!(weight(262_144), 10_000);
}

#[test]
fn a_process_tells_its_group() {
    let hybrid = "13:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/system.slice/x\n";
    assert_eq!(membership(hybrid, true), Some(PathBuf::from("docker/abc")));
    assert_eq!(membership(hybrid, false), Some(PathBuf::from("system.slice/x")));
    assert_eq!(membership("0::/a:b\n", false), Some(PathBuf::from("a:b")));
    assert_eq!(membership("", true), None);
}
