//! `com.cloud.agent.api.ModifySshKeysCommand`: the key pair by which this host reaches system VMs.
//! Sent twice at each registration. The private key is never logged or shown.

use crate::commands::{Claims, Command, Ctx, Fault, Key, NoFields, Reply, secret};
use crate::config::Secret;
use crate::files::{Permissions, write_atomically};
use crate::wire::lenient;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

pub const PRIVATE_KEY_FILE: &str = "id_rsa.cloud";
pub const PUBLIC_KEY_FILE: &str = "id_rsa.pub.cloud";

/// The private key of 16384 bits takes about 13000 characters.
const LONGEST_KEY: usize = 32 * 1024;

#[derive(Debug, serde::Deserialize)]
pub struct ModifySshKeysCommand {
    #[serde(default, rename = "_pubKey", deserialize_with = "lenient::or_default")]
    pub public_key: String,
    #[serde(default = "secret::none", rename = "_prvKey", deserialize_with = "secret::text")]
    pub private_key: Secret,
}

impl Command for ModifySshKeysCommand {
    type Answer = NoFields;

    /// The two commands of a registration carry the same keys; written one after the other.
    fn claims(&self) -> Claims {
        Key::Settings.into()
    }

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        let plausible = |key: &str| !key.trim().is_empty() && key.len() <= LONGEST_KEY && !key.contains('\0');
        if !plausible(&self.public_key) || !plausible(self.private_key.expose()) {
            return Err(Fault::new(
                "The command has no usable pair of ssh keys: check ssh.privatekey of the server",
            ));
        }
        let directory = ctx.services.ssh_dir.clone();
        let stored = tokio::task::spawn_blocking(move || store(&directory, &self)).await;
        stored.unwrap_or_else(|_| {
            Err(Fault::new("Storing the ssh keys panicked; please report it with the log"))
        })?;
        Ok(Reply::done())
    }
}

fn store(directory: &Path, keys: &ModifySshKeysCommand) -> Result<(), Fault> {
    // An existing directory keeps its mode: it is the administrator's.
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| {
        Fault::new(format!("Cannot create {}: {error}; check the rights on its parent", directory.display()))
    })?;
    let private = directory.join(PRIVATE_KEY_FILE);
    write_atomically(&private, keys.private_key.expose().as_bytes(), Permissions::Exactly(0o600))?;
    let public = directory.join(PUBLIC_KEY_FILE);
    write_atomically(&public, keys.public_key.as_bytes(), Permissions::Exactly(0o644))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::Bench;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;

    const CLASS: &str = "com.cloud.agent.api.ModifySshKeysCommand";

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn the_pair_is_stored_for_root_alone() {
        let mut bench = Bench::new().await;
        let private = "-----BEGIN RSA PRIVATE KEY-----\nREDACTED\n-----END RSA PRIVATE KEY-----\n";
        for public in ["ssh-rsa old\n", "ssh-rsa AAAA= root@vm\n"] {
            let (class, fields) = bench.answer(CLASS, json!({"_pubKey": public, "_prvKey": private})).await;
            assert_eq!(
                (class.as_str(), &fields["result"]),
                ("com.cloud.agent.api.Answer", &json!(true)),
                "{fields}"
            );
        }
        let directory = &bench.ctx.services.ssh_dir;
        let (private_file, public_file) =
            (directory.join("id_rsa.cloud"), directory.join("id_rsa.pub.cloud"));
        assert_eq!(std::fs::read_to_string(&private_file).unwrap(), private);
        assert_eq!(std::fs::read_to_string(&public_file).unwrap(), "ssh-rsa AAAA= root@vm\n");
        assert_eq!((mode(directory), mode(&private_file), mode(&public_file)), (0o700, 0o600, 0o644));
    }

    #[tokio::test]
    async fn half_a_pair_is_refused_and_nothing_replaced() {
        let mut bench = Bench::new().await;
        let long = "x".repeat(LONGEST_KEY + 1);
        for bad in [
            json!({}),
            json!({"_pubKey": "a"}),
            json!({"_prvKey": "a"}),
            json!({"_pubKey": "a", "_prvKey": long}),
        ] {
            let (_, fields) = bench.answer(CLASS, bad).await;
            assert_eq!(fields["result"], false);
        }
        assert!(!bench.ctx.services.ssh_dir.exists());
    }

    #[test]
    fn the_private_key_is_not_shown() {
        let command: ModifySshKeysCommand = serde_json::from_str(r#"{"_prvKey":"canary"}"#).unwrap();
        assert!(!format!("{command:?}").contains("canary"));
    }
}
