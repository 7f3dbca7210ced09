//! Addresses that DHCP clients have noted on a guest's disk, read with the tools of libguestfs as the
//! reference agent does. They start a small virtual machine for it, which takes seconds.

use crate::commands::Fault;
use crate::host::exec::{Output, Program, find_program};
use std::net::Ipv4Addr;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(120);
const MAX_OUTPUT: usize = 256 * 1024;
/// Of dhclient.
const LEASES: &str = "/var/lib/dhclient";
/// More than any guest has.
const MOST_FILES: usize = 16;
const REGISTRY: &str = r"HKEY_LOCAL_MACHINE\SYSTEM\ControlSet001\Services\Tcpip\Parameters\Interfaces";

/// In the order in which they are noted: the last is the newest.
pub(super) async fn addresses(uri: &str, guest: &str, windows: bool) -> Result<Vec<Ipv4Addr>, Fault> {
    if windows {
        let output = run("virt-win-reg", &["--connect", uri, guest, REGISTRY]).await?;
        return Ok(registry(&output.text()));
    }
    let listed = run("virt-ls", &["-c", uri, "-d", guest, LEASES]).await?.text();
    let mut addresses = Vec::new();
    for file in listed.lines().filter(|name| is_lease_file(name)).take(MOST_FILES) {
        let path = format!("{LEASES}/{file}");
        let content = run("virt-cat", &["-c", uri, "-d", guest, &path]).await?.text();
        addresses.extend(leases(&content));
    }
    Ok(addresses)
}

/// The names come from the guest.
fn is_lease_file(name: &str) -> bool {
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    name.ends_with(".leases") && name.chars().all(harmless)
}

async fn run(program: &str, words: &[&str]) -> Result<Output, Fault> {
    let Some(path) = find_program(program) else {
        return Err(Fault::new(format!("{program} is not installed on this host: install libguestfs-tools")));
    };
    let output = Program::new(path).args(words).deadline(DEADLINE).max_output(MAX_OUTPUT).run().await?;
    if output.success() {
        return Ok(output);
    }
    let said: String = String::from_utf8_lossy(&output.stderr).chars().take(300).collect();
    Err(Fault::new(format!("{program} failed: {said}")))
}

/// Lines such as `  fixed-address 10.1.1.5;`.
fn leases(text: &str) -> Vec<Ipv4Addr> {
    let one =
        |line: &str| line.trim().strip_prefix("fixed-address")?.trim().trim_end_matches(';').parse().ok();
    text.lines().filter_map(one).collect()
}

/// Lines such as `"DhcpIPAddress"=hex(1):31,00,30,00,2e,00`: text in UTF-16.
fn registry(text: &str) -> Vec<Ipv4Addr> {
    let one = |line: &str| {
        let value = line.trim().strip_prefix("\"DhcpIPAddress\"=hex(1):")?;
        let bytes = value.split(',').map(|byte| u8::from_str_radix(byte.trim(), 16).ok());
        let bytes = bytes.collect::<Option<Vec<u8>>>()?;
        // Digits and dots: every other byte is zero.
        let text: Vec<u8> = bytes.into_iter().filter(|byte| *byte != 0).collect();
        std::str::from_utf8(&text).ok()?.parse().ok()
    };
    text.lines().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_note_is_read() {
        let text = "lease {\n  interface \"eth0\";\n  fixed-address 10.1.1.5;\n}\nlease {\n  fixed-address 10.1.1.9;\n  \
                    fixed-address nonsense;\n}\n";
        assert_eq!(leases(text), [Ipv4Addr::new(10, 1, 1, 5), Ipv4Addr::new(10, 1, 1, 9)]);
        let hex = "31,00,30,00,2e,00,31,00,2e,00,31,00,2e,00,37,00,00,00";
        let text = format!(
            "[x]\n\"EnableDHCP\"=dword:1\n\"DhcpIPAddress\"=hex(1):{hex}\n\"DhcpServer\"=hex(1):{hex}\n"
        );
        assert_eq!(registry(&text), [Ipv4Addr::new(10, 1, 1, 7)]);
    }

    #[test]
    fn only_names_of_lease_files_are_asked_for() {
        for (name, expected) in [
            ("dhclient-eth0.leases", true),
            ("dhclient.leases", true),
            ("x.lease", false),
            ("../x.leases", false),
            ("a b.leases", false),
        ] {
            assert_eq!(is_lease_file(name), expected, "{name}");
        }
    }
}
