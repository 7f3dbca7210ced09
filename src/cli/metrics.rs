//! `agent metrics`: the page of the metrics socket, for hosts without curl and for textfile collectors.

use super::out;
use crate::metrics::{SOCKET_NAME, http};
use crate::service::exit;
use std::path::PathBuf;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(2);

/// Prints the page; nothing if there is none.
pub async fn show(runtime_dir: PathBuf) -> u8 {
    match http::fetch(&runtime_dir.join(SOCKET_NAME), DEADLINE).await {
        Ok(page) => {
            out::show(&page);
            exit::OK
        }
        Err(error) => {
            out::complain(&format!("{}; {}", crate::errors::chain(&error), error.remedy()));
            if error.proves_absence() { exit::NOT_RUNNING } else { exit::UNKNOWN }
        }
    }
}
