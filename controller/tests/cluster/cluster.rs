//! Controllers and gateways as processes of this machine, in a namespace of their own.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::pods::{Ground, Use, run};
use crate::support::http::Request;
use crate::support::ports::free_port;
use crate::support::{condition, eventually, free_address};

/// A namespace of its own, with controllers and gateways of it.
pub(crate) struct Cluster {
    pub(crate) ground: Ground,
    pub(crate) data: tempfile::TempDir,
    pub(crate) controllers: Vec<Process>,
    pub(crate) gateways: Vec<Process>,
    /// Of the gateways, in their order.
    pub(crate) addresses: Vec<SocketAddr>,
    /// With whose rights controllers work; `None`: with those of the test.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// More options of controllers.
    pub(crate) options: Vec<String>,
    /// Whose Functions are served; `None`: those of its own namespace.
    pub(crate) watch: Option<String>,
    report: u16,
    /// Controllers that were started.
    started: usize,
}

/// A process of ours.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    pub(crate) management: SocketAddr,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Process {
    /// Ends it as Kubernetes does.
    pub(crate) fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let signalled = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        signalled.expect("a child of ours can be signalled");
        let status = eventually(|| self.child.try_wait().expect("a child of ours can be waited for"));
        let log = self.text();
        assert!(status.is_some_and(|status| status.success()), "{status:?}\n{log}");
    }

    /// What it has logged.
    pub(crate) fn text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    fn answers(&self, path: &str) -> bool {
        Request::get(path).send(self.management).is_ok_and(|answer| answer.status == 200)
    }
}

impl Cluster {
    /// A namespace; `None`, and that is said, without a cluster.
    pub(crate) fn start() -> Option<Self> {
        Self::used(Use::Shared)
    }

    #[expect(clippy::print_stdout, reason = "what could not be tried is said")]
    pub(crate) fn used(usage: Use) -> Option<Self> {
        let data = tempfile::Builder::new().prefix("hearth-test-").tempdir().expect("a temporary directory");
        let name = data.path().file_name().expect("it has a name").to_string_lossy().to_lowercase();
        let namespace = format!("operator-{}", name.trim_start_matches("hearth-test-"));
        let ground = match Ground::make(&namespace, "nodejs", usage) {
            Ok(ground) => ground,
            Err(why) => {
                println!("NOT RUN: {why}");
                return None;
            }
        };
        let (controllers, gateways, addresses, options) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let report = free_port();
        let cluster = Self {
            ground,
            data,
            controllers,
            gateways,
            addresses,
            kubeconfig: None,
            options,
            watch: None,
            report,
            started: 0,
        };
        cluster.write_key("0123456789abcdef0123456789abcdef0123");
        Some(cluster)
    }

    /// The same with a gateway and a controller that work.
    pub(crate) fn working() -> Option<Self> {
        let mut cluster = Self::start()?;
        cluster.work();
        Some(cluster)
    }

    /// Starts a gateway and a controller, and waits until they work.
    pub(crate) fn work(&mut self) {
        self.gateway();
        self.controller();
        self.wait();
    }

    /// Processes that are started from now on have this key.
    pub(crate) fn write_key(&self, key: &str) {
        std::fs::write(self.key(), key).expect("the key is written");
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.data.path().join("key")
    }

    /// The runtime image, as controllers are told of it.
    pub(crate) fn runtime(&self) -> String {
        format!("{}={}", self.ground.runtime, self.ground.image)
    }

    /// One more controller. All of them report at the same address of this machine: whoever leads listens there.
    pub(crate) fn controller(&mut self) {
        let number = self.started;
        self.started += 1;
        let (management, hub) = (free_address(), free_port());
        let gateway = self.addresses.first().map_or_else(|| "127.0.0.1:1".to_owned(), ToString::to_string);
        let mut arguments = vec![
            "controller".to_owned(),
            format!("--management={}", SocketAddr::from(([0, 0, 0, 0], management.port()))),
            format!("--hub-listen=0.0.0.0:{hub}"),
            format!("--report-listen=0.0.0.0:{}", self.report),
            format!("--report-advertise={}:{}", self.ground.host, self.report),
            format!("--data-dir={}", self.data.path().join(format!("data-{number}")).display()),
            format!("--gateway-url=http://{gateway}"),
            format!("--runtime={}", self.runtime()),
            "--set=cluster.pull_policy=IfNotPresent".to_owned(),
        ];
        arguments.extend(self.options.iter().cloned());
        let process =
            self.process(&arguments, &format!("controller-{number}"), management, self.kubeconfig.as_ref());
        self.controllers.push(process);
    }

    pub(crate) fn gateway(&mut self) {
        let number = self.gateways.len();
        let (management, listen) = (free_address(), free_address());
        let arguments = [
            "gateway".to_owned(),
            format!("--listen={listen}"),
            format!("--management={management}"),
            "--linger=0s".to_owned(),
        ];
        let process = self.process(&arguments, &format!("gateway-{number}"), management, None);
        self.gateways.push(process);
        self.addresses.push(listen);
    }

    fn process(
        &self,
        arguments: &[String],
        name: &str,
        management: SocketAddr,
        kubeconfig: Option<&PathBuf>,
    ) -> Process {
        let path = self.data.path().join(format!("{name}.log"));
        let log = File::create(&path).expect("the log is made");
        let mut command = Command::new(env!("CARGO_BIN_EXE_hearth"));
        if let Some(kubeconfig) = kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        let child = command
            .args(arguments)
            .args(["--namespace", &self.ground.namespace])
            .args(["--watch-namespace", self.watch.as_ref().unwrap_or(&self.ground.namespace)])
            .arg(format!("--key-file={}", self.key().display()))
            // Of `.ci/cluster`, and no option.
            .env_remove("HEARTH_KUBE_DIR")
            .env("HEARTH_PREWARM_ENABLED", "false")
            .env("HEARTH_CONTROLLER_LEASE_DURATION", "6s")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor is duplicated"))
            .stderr(log)
            .spawn()
            .expect("the binary under test can be started");
        Process { child, log: path, management }
    }

    /// Waits until a gateway is ready and a controller leads.
    pub(crate) fn wait(&self) {
        let ready = eventually(|| {
            let gateways = self.gateways.iter().all(|gateway| gateway.answers("/readyz"));
            (gateways && self.leads()).then_some(())
        });
        assert!(ready.is_some(), "not ready\n{}", self.logs());
    }

    fn leads(&self) -> bool {
        let lease = self.ground.json(&["get", "lease", "hearth-controller"]);
        lease.is_some_and(|lease| {
            lease["spec"]["holderIdentity"].as_str().is_some_and(|holder| !holder.is_empty())
        })
    }

    pub(crate) fn logs(&self) -> String {
        let all = self.controllers.iter().chain(&self.gateways);
        all.map(|one| format!("── {}\n{}\n", one.log.display(), one.text())).collect()
    }

    /// `kubectl` in the namespace.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        self.ground.kubectl(arguments, "").expect("kubectl does it")
    }

    /// Applies objects of any form that kubectl takes.
    pub(crate) fn apply(&self, objects: &str) {
        self.ground.kubectl(&["apply", "-f", "-"], objects).expect("kubectl applies it");
    }

    pub(crate) fn function(&self, name: &str) -> Option<Value> {
        self.ground.json(&["get", "function", name])
    }

    /// Waits until it is Ready.
    pub(crate) fn ready(&self, name: &str) {
        let mut last = None;
        let ready = eventually(|| {
            last = self.function(name);
            last.as_ref().is_some_and(|function| condition(function, "Ready").0 == "True").then_some(())
        });
        assert!(
            ready.is_some(),
            "{name} is not ready: {last:#?}\n{}\n{}",
            self.kubectl(&["get", "pods", "-o", "wide"]),
            self.logs()
        );
    }

    /// Waits until its condition Ready says all of this, as kubectl shows it.
    pub(crate) fn says(&self, name: &str, status: &str, words: &[&str]) -> String {
        let path = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].message}"#;
        let mut last = String::new();
        let said = eventually(|| {
            last = self.kubectl(&["get", "function", name, "-o", path]);
            (last.starts_with(status) && words.iter().all(|word| last.contains(word))).then_some(())
        });
        assert!(said.is_some(), "{name} should say {status} {words:?}, and says: {last}\n{}", self.logs());
        last
    }

    /// Waits until `kubectl describe` shows an Event with these words.
    pub(crate) fn tells(&self, name: &str, words: &[&str]) {
        let mut last = String::new();
        let told = eventually(|| {
            last = self.kubectl(&["describe", "function", name]);
            let (_, events) = last.split_once("\nEvents:")?;
            events.lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(())
        });
        assert!(told.is_some(), "an Event should say {words:?}: {last}\n{}", self.logs());
    }

    pub(crate) fn target(&self, name: &str) -> String {
        format!("/function/{}/{name}", self.ground.namespace)
    }

    /// A call through the first gateway.
    pub(crate) fn call(&self, name: &str) -> (u16, String) {
        self.ask(&self.target(name))
    }

    /// The same, of a path.
    pub(crate) fn ask(&self, path: &str) -> (u16, String) {
        let answer = Request::get(path).send(self.addresses[0]);
        let answer = answer.map_err(|error| format!("{error}\n{}", self.logs())).expect("an answer");
        (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// Calls one after the other until it is told to stop.
    pub(crate) fn caller(&self, name: &str) -> Caller {
        self.caller_at(name, 0)
    }

    /// The same, through the gateway of this number.
    pub(crate) fn caller_at(&self, name: &str, gateway: usize) -> Caller {
        let over = Arc::new(AtomicBool::new(false));
        let (stop, address, target) = (Arc::clone(&over), self.addresses[gateway], self.target(name));
        let calls = std::thread::spawn(move || {
            let (mut good, mut bad) = (0, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                match Request::get(&target).send(address) {
                    Ok(answer) if answer.status == 200 => good += 1,
                    Ok(answer) => {
                        bad.push(format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)));
                    }
                    Err(error) => bad.push(error.to_string()),
                }
                pause(Duration::from_millis(5));
            }
            (good, bad)
        });
        Caller { over, calls }
    }

    /// Pods that are not about to go.
    pub(crate) fn pods(&self) -> Vec<String> {
        let listed = self.ground.json(&["get", "pods"]).unwrap_or_default();
        let items = listed["items"].as_array().cloned().unwrap_or_default();
        let alive = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
        items
            .iter()
            .filter(alive)
            .filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
            .collect()
    }

    /// Ends the controllers in good order.
    pub(crate) fn stop_controllers(&mut self) {
        self.controllers.drain(..).for_each(Process::stop);
    }

    /// Deletes the Functions, and sees to it that nothing of them is left.
    pub(crate) fn end(mut self) {
        // A kubelet that has much to do takes minutes for the end of a Pod.
        let delete = ["-n", &self.ground.namespace, "delete", "functions", "--all", "--timeout=240s"];
        let deleted = run("kubectl", &delete, "");
        assert!(deleted.is_ok(), "{deleted:?}\n{}", self.logs());
        let gone = eventually(|| self.pods().is_empty().then_some(()));
        assert!(gone.is_some(), "Pods are left: {:?}\n{}", self.pods(), self.logs());
        self.gateways.drain(..).for_each(Process::stop);
        self.controllers.drain(..).for_each(Process::stop);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.gateways.clear();
        self.controllers.clear();
    }
}

/// Somebody who calls all the time.
pub(crate) struct Caller {
    over: Arc<AtomicBool>,
    calls: JoinHandle<(u32, Vec<String>)>,
}

impl Caller {
    /// How many calls were answered by 200, and what came of the others.
    pub(crate) fn end(self) -> (u32, Vec<String>) {
        self.over.store(true, Ordering::Relaxed);
        self.calls.join().expect("the caller counts")
    }
}

/// Time that has to pass: nothing is waited for.
#[expect(clippy::disallowed_methods, reason = "a test of processes has no other clock")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}
