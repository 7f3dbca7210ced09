//! `org.apache.cloudstack.storage.command.browser.ListDataStoreObjectsCommand`: one page of what is in a
//! directory of a pool, for the storage browser of the server.

use crate::commands::to::Store;
use crate::commands::{Command, Ctx, Fault, Reply, place};
use crate::storage::disk::DEADLINE;
use crate::storage::names::RelativePath;
use crate::wire::lenient;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// A longer page is cut.
const LONGEST_PAGE: usize = 10_000;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListDataStoreObjectsCommand {
    #[serde(default)]
    store: Option<Store>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    path: String,
    #[serde(default, deserialize_with = "lenient::int")]
    start_index: i64,
    #[serde(default, deserialize_with = "lenient::int")]
    page_size: i64,
}

/// Lists of the same length, one entry for each object of the page.
#[derive(Debug, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListDataStoreObjectsAnswer {
    path_exists: bool,
    /// Of the whole directory.
    count: usize,
    names: Vec<String>,
    /// Below the pool, with a slash in front.
    paths: Vec<String>,
    abs_paths: Vec<String>,
    is_dirs: Vec<bool>,
    /// Bytes.
    sizes: Vec<u64>,
    /// Milliseconds since 1970.
    last_modified: Vec<u64>,
}

impl ListDataStoreObjectsAnswer {
    fn add(&mut self, root: &Path, path: &Path, facts: &Metadata) {
        let below = path.strip_prefix(root).unwrap_or(path);
        let since = facts.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        self.names.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        self.paths.push(format!("/{}", below.display()));
        self.abs_paths.push(path.to_string_lossy().into_owned());
        self.is_dirs.push(facts.is_dir());
        self.sizes.push(facts.len());
        self.last_modified.push(since.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)));
    }
}

impl Command for ListDataStoreObjectsCommand {
    type Answer = ListDataStoreObjectsAnswer;
    const ANSWER: &'static str = "org.apache.cloudstack.storage.command.browser.ListDataStoreObjectsAnswer";

    async fn handle(self, ctx: Ctx) -> Result<Reply<ListDataStoreObjectsAnswer>, Fault> {
        let pool = place::pool(&ctx, self.store.as_ref(), "The directory").await?;
        let root = pool.local_path;
        let path = match self.path.trim_matches('/') {
            "" => root.clone(),
            inside => RelativePath::new(inside)?.under(&root),
        };
        let count = |number: i64| usize::try_from(number).unwrap_or(0);
        let (skip, take) = (count(self.start_index), count(self.page_size).min(LONGEST_PAGE));
        let look = move |path: &Path| list(&root, path, skip, take);
        let listed = ctx.services.storage.disks.run("listing", &path, DEADLINE, look).await;
        match listed {
            Ok(answer) => Ok(Reply::ok(answer)),
            Err(error) if error.is_not_found() => Ok(Reply::ok(ListDataStoreObjectsAnswer::default())),
            Err(error) => Err(error.into()),
        }
    }
}

fn list(root: &Path, path: &Path, skip: usize, take: usize) -> io::Result<ListDataStoreObjectsAnswer> {
    // A link on the way could lead out of the pool.
    if !path.canonicalize()?.starts_with(root.canonicalize()?) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it leads out of the pool"));
    }
    let mut answer = ListDataStoreObjectsAnswer { path_exists: true, ..Default::default() };
    let facts = path.symlink_metadata()?;
    if !facts.is_dir() {
        answer.count = 1;
        answer.add(root, path, &facts);
        return Ok(answer);
    }
    let mut all: Vec<PathBuf> = std::fs::read_dir(path)?.flatten().map(|entry| entry.path()).collect();
    all.sort();
    answer.count = all.len();
    for path in all.into_iter().skip(skip).take(take) {
        // It may have gone meanwhile.
        if let Ok(facts) = path.symlink_metadata() {
            answer.add(root, &path, &facts);
        }
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::Bench;
    use serde_json::{Value, json};

    async fn list(bench: &mut Bench, path: &str, start: u64, size: u64) -> Value {
        let class = "org.apache.cloudstack.storage.command.browser.ListDataStoreObjectsCommand";
        let command = json!({"store": bench.store(), "path": path, "startIndex": start, "pageSize": size});
        let (class, fields) = bench.answer(class, command).await;
        assert_eq!(class, "org.apache.cloudstack.storage.command.browser.ListDataStoreObjectsAnswer");
        fields
    }

    async fn filled() -> Bench {
        let bench = Bench::with_pool().await;
        std::fs::create_dir(bench.pool_dir().join("b")).unwrap();
        std::fs::write(bench.pool_dir().join("b/inside"), "12345").unwrap();
        std::fs::write(bench.pool_dir().join("a"), "123").unwrap();
        std::os::unix::fs::symlink("/etc", bench.pool_dir().join("c")).unwrap();
        bench
    }

    #[tokio::test]
    async fn pages_of_a_directory_are_listed() {
        let mut bench = filled().await;
        let all = list(&mut bench, "", 0, 10).await;
        assert_eq!((&all["pathExists"], &all["count"]), (&json!(true), &json!(3)), "{all}");
        assert_eq!(all["names"], json!(["a", "b", "c"]));
        assert_eq!(all["isDirs"], json!([false, true, false]));
        assert_eq!((&all["sizes"][0], &all["paths"][1]), (&json!(3), &json!("/b")));
        assert_eq!(all["absPaths"][0], json!(bench.pool_dir().join("a")));
        assert!(all["lastModified"][0].as_u64().unwrap() > 1_600_000_000_000, "{all}");
        let page = list(&mut bench, "/", 1, 1).await;
        assert_eq!((&page["names"], &page["count"]), (&json!(["b"]), &json!(3)));
        assert_eq!(list(&mut bench, "/", 7, 5).await["names"], json!([]));
        let inside = list(&mut bench, "/b/", 0, 5).await;
        assert_eq!((&inside["paths"], &inside["count"]), (&json!(["/b/inside"]), &json!(1)));
        let file = list(&mut bench, "b/inside", 0, 5).await;
        assert_eq!((&file["names"], &file["sizes"]), (&json!(["inside"]), &json!([5])));
        let gone = list(&mut bench, "gone", 0, 5).await;
        assert_eq!(
            (&gone["result"], &gone["pathExists"], &gone["names"]),
            (&json!(true), &json!(false), &json!([]))
        );
    }

    #[tokio::test]
    async fn nothing_outside_the_pool_is_shown() {
        let mut bench = filled().await;
        for path in ["..", "b/../..", "c", "c/passwd"] {
            let answer = list(&mut bench, path, 0, 5).await;
            assert_eq!(answer["result"], false, "{path}: {answer}");
            assert!(!answer.to_string().contains("passwd\""), "{answer}");
        }
    }
}
