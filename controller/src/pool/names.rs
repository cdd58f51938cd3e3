//! Names and secrets of instances.

use hearth_function::InstanceId;

/// `hello-7k3m9x2q4a`: the Function's name, as far as it fits, and 50 random bits.
pub(super) fn new_id(function: &str, random: [u8; 32]) -> InstanceId {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    const SUFFIX: usize = 10;
    let room = 20 - SUFFIX - 1;
    let name: String = function.chars().take(room).collect();
    let suffix: String =
        random.iter().take(SUFFIX).map(|byte| char::from(DIGITS[usize::from(byte % 32)])).collect();
    let id = format!("{}-{suffix}", name.trim_end_matches('-'));
    InstanceId::parse(&id)
        .expect("a label's beginning, a dash and letters are a label of at most 20 characters")
}

/// 64 hex digits that nobody can guess.
pub(super) fn secret() -> String {
    use std::fmt::Write as _;
    random().iter().fold(String::with_capacity(64), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String does not fail");
        text
    })
}

pub(super) fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes once it has booted");
    bytes
}
