//! Firewalls of others. A packet passes only if every table lets it: Docker sets the policy of iptables' FORWARD chain to DROP and offers
//! the chain DOCKER-USER for exceptions; ufw drops in INPUT too. Who has such rules has `iptables` installed, so it is used here, and only
//! here: at the opening, now and then in the background (Docker may be started later), and at the closing.

use std::io;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

/// What must be let through.
#[derive(Debug, Clone)]
pub(in crate::backend) struct Exception {
    /// The bridge's name; the rules' comment too.
    pub(in crate::backend) bridge: String,
    /// The bridge's address.
    pub(in crate::backend) gateway: Ipv4Addr,
    /// Ports that instances may reach there.
    pub(in crate::backend) ports: Vec<u16>,
    /// Interfaces by which they reach the outside; to others, Docker's own rules keep their say.
    pub(in crate::backend) ways_out: Vec<String>,
}

impl Exception {
    /// Makes the exceptions where they are needed and missing.
    ///
    /// # Errors
    /// When a rule that is needed cannot be made.
    pub(in crate::backend) fn make(&self) -> io::Result<()> {
        for (chain, rule) in self.wanted(&state()) {
            let present = iptables(&arguments("-C", chain, &rule)).is_ok();
            if !present {
                iptables(&arguments("-I", chain, &rule))?;
            }
        }
        Ok(())
    }

    /// Takes every exception away, needed or not.
    pub(in crate::backend) fn remove(&self) {
        self.remove_where(|words| follows(words, &["--comment"], &self.bridge));
    }

    /// Takes away every rule of others that names the bridge: some leave theirs behind when the bridge goes.
    pub(in crate::backend) fn remove_of_others(&self) {
        self.remove_where(|words| follows(words, &["-i", "-o"], &self.bridge));
    }

    fn remove_where(&self, which: impl Fn(&[String]) -> bool) {
        for line in state().lines() {
            let Some(rule) = line.strip_prefix("-A ").map(words).filter(|words| which(words)) else {
                continue;
            };
            iptables(&[vec!["-D".to_owned()], rule].concat()).ok();
        }
    }

    /// The rules that the state of the firewall asks for. Pure.
    fn wanted(&self, state: &str) -> Vec<(&'static str, Vec<String>)> {
        let has = |line: &str| state.lines().any(|one| one.trim() == line);
        let words = |text: String| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let forward = if has("-N DOCKER-USER") {
            Some("DOCKER-USER")
        } else {
            has("-P FORWARD DROP").then_some("FORWARD")
        };
        let mut rules = Vec::new();
        if let Some(chain) = forward {
            for way in &self.ways_out {
                rules.push((chain, words(format!("-i {} -o {way} -j ACCEPT", self.bridge))));
            }
            rules.push((
                chain,
                words(format!("-o {} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", self.bridge)),
            ));
        }
        if has("-P INPUT DROP") {
            for port in &self.ports {
                let text = format!("-i {} -d {} -p tcp --dport {port} -j ACCEPT", self.bridge, self.gateway);
                rules.push(("INPUT", words(text)));
            }
        }
        let comment = ["-m", "comment", "--comment"].map(str::to_owned);
        for (_, rule) in &mut rules {
            let before_target = rule.len() - 2;
            rule.splice(before_target..before_target, comment.iter().cloned().chain([self.bridge.clone()]));
        }
        rules
    }
}

/// Whether one of `options` has this value in a rule.
fn follows(words: &[String], options: &[&str], value: &str) -> bool {
    words
        .windows(2)
        .any(|pair| matches!(pair, [option, given] if options.contains(&option.as_str()) && given == value))
}

/// The words of a rule as `iptables -S` prints it: texts with blanks are in quotes.
fn words(rule: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (number, part) in rule.split('"').enumerate() {
        if number % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

fn arguments(action: &str, chain: &str, rule: &[String]) -> Vec<String> {
    [action, chain].into_iter().map(str::to_owned).chain(rule.iter().cloned()).collect()
}

/// All chains and rules; empty where there is no iptables, which means that nobody's policy stands in the way.
fn state() -> String {
    iptables(&["-S".to_owned()]).unwrap_or_default()
}

fn iptables(arguments: &[String]) -> io::Result<String> {
    let output = Command::new("iptables")
        // Waits for another's lock instead of failing.
        .args(["-w", "5"])
        .args(arguments)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(io::Error::other(format!(
        "iptables {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exception() -> Exception {
        Exception {
            bridge: "hearth0a1b2c3d".to_owned(),
            gateway: Ipv4Addr::new(10, 213, 0, 1),
            ports: vec![8080],
            ways_out: vec!["eth0".to_owned()],
        }
    }

    fn wanted(state: &str) -> Vec<String> {
        exception()
            .wanted(state)
            .into_iter()
            .map(|(chain, rule)| format!("{chain} {}", rule.join(" ")))
            .collect()
    }

    #[test]
    fn a_rule_that_names_the_bridge_is_known_whatever_its_comment_says() {
        let rule =
            "CNI-X -i hearthd0a1b2c3d ! -o hearthd0a1b2c3d -m comment --comment \"CNI rules (x)\" -j CNI-Y";
        let words = words(rule);
        assert_eq!(words[9], "CNI rules (x)");
        assert!(follows(&words, &["-i", "-o"], "hearthd0a1b2c3d"));
        assert!(!follows(&words, &["-i", "-o"], "hearthd0a1b2c3"));
        assert!(!follows(&words, &["--comment"], "hearthd0a1b2c3d"));
    }

    #[test]
    fn nothing_is_asked_of_an_open_firewall() {
        assert!(wanted("-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n").is_empty());
        assert!(wanted("").is_empty());
    }

    #[test]
    fn docker_offers_a_chain() {
        let rules = wanted(
            "-P INPUT ACCEPT\n-P FORWARD DROP\n-N DOCKER\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n",
        );
        assert_eq!(
            rules,
            [
                "DOCKER-USER -i hearth0a1b2c3d -o eth0 -m comment --comment hearth0a1b2c3d -j ACCEPT",
                "DOCKER-USER -o hearth0a1b2c3d -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment hearth0a1b2c3d -j ACCEPT",
            ]
        );
    }

    #[test]
    fn a_closed_host_lets_instances_reach_the_gateway_only() {
        let rules = wanted("-P INPUT DROP\n-P FORWARD DROP\n");
        assert_eq!(rules.len(), 3);
        assert!(rules[0].starts_with("FORWARD -i hearth0a1b2c3d -o eth0"));
        assert!(
            rules[2].starts_with("INPUT -i hearth0a1b2c3d -d 10.213.0.1 -p tcp --dport 8080"),
            "{}",
            rules[2]
        );
    }
}
