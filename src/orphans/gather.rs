//! Collects the facts. Changes nothing, asks the agent nothing: it may hang or be dead.

use super::facts::{FileFact, GuestFact, MountFact, Place, SecretFact};
use super::{Facts, Found, files, logs, scan, touched};
use crate::config::{Config, Properties};
use crate::hypervisor::{DomainState, Flavour, Hypervisor, HypervisorError, PowerState};
use crate::network::Bridges;
use crate::storage::disk::{DiskError, Disks};
use crate::storage::mounts::{self, MountError};
use crate::storage::qemu_img::QemuImg;
use crate::xml::{self, Element, XmlError};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const LOOK: Duration = Duration::from_secs(60);
const CHAIN: Duration = Duration::from_secs(10);
/// File systems that other hosts may have mounted too.
const SHARED: &[&str] = &["nfs", "nfs4", "cifs", "smb3", "ceph", "gfs2", "ocfs2", "lustre", "9p"];

#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    #[error("Without libvirt it is not known what the guests use: see that libvirtd answers")]
    Guests { source: HypervisorError },
    #[error("Without libvirt it is not known which secrets there are: see that libvirtd answers")]
    Secrets { source: HypervisorError },
    #[error("The description of guest {guest} does not read, so what it uses is not known")]
    Description { guest: String, source: XmlError },
    #[error("It is not known which files are open and what the agent was asked about")]
    Look { source: DiskError },
    #[error("It is not known what is mounted")]
    Mounts { source: MountError },
}

/// Where to look.
#[derive(Debug, Clone)]
pub struct Places {
    /// Of local pools.
    pub pools: Vec<PathBuf>,
    pub host_cache: PathBuf,
    pub nvram: Vec<PathBuf>,
    pub temporary: PathBuf,
    /// Below which NFS is mounted.
    pub mounts: PathBuf,
    pub guest_logs: PathBuf,
    pub journal: PathBuf,
    pub runtime_dir: PathBuf,
}

impl Places {
    pub fn of(config: &Config, runtime_dir: &Path, state_dir: &Path) -> Places {
        let path = |key: &str| PathBuf::from(config.text(key).unwrap_or_default());
        let uefi = std::fs::read(config.dir().join("uefi.properties")).unwrap_or_default();
        let uefi = Properties::parse(&uefi).ok();
        let nvram = uefi.and_then(|uefi| uefi.get("guest.nvram.path").map(PathBuf::from));
        let usual = PathBuf::from("/var/lib/libvirt/qemu/nvram");
        Places {
            pools: config.local_storage.iter().map(|pool| pool.path.clone()).collect(),
            host_cache: path("host.cache.location"),
            nvram: [Some(usual), nvram.filter(|path| path.is_absolute())].into_iter().flatten().collect(),
            temporary: path("direct.download.temporary.download.location"),
            mounts: config.mount_path.clone(),
            guest_logs: "/var/log/libvirt/qemu".into(),
            journal: state_dir.join("journal"),
            runtime_dir: runtime_dir.to_owned(),
        }
    }
}

/// What looking and removing need.
#[derive(Debug, Clone)]
pub struct Tools {
    pub places: Places,
    pub hypervisor: Hypervisor,
    pub disks: Disks,
    pub images: QemuImg,
    pub bridges: Bridges,
}

impl Tools {
    pub async fn scan(&self) -> Result<Found, GatherError> {
        Ok(scan(&self.facts().await?))
    }

    pub async fn facts(&self) -> Result<Facts, GatherError> {
        let places = &self.places;
        let table = mounts::all_mounted().map_err(|source| GatherError::Mounts { source })?;
        let mut facts = Facts::default();
        self.pools(&table, &mut facts).await;
        facts.guests = self.guests(&mut facts.blind).await?;
        let secrets = self.hypervisor.secrets().await.map_err(|source| GatherError::Secrets { source })?;
        facts.secrets =
            secrets.into_iter().map(|(uuid, volume)| SecretFact { uuid: uuid.to_string(), volume }).collect();
        facts.mounts = self.mounts(&table).await;
        let roots: Vec<PathBuf> =
            facts.files.iter().map(|file| file.root.clone()).chain([places.mounts.clone()]).collect();
        let roots: Vec<PathBuf> = roots.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        let places = places.clone();
        // Last: what a request begins to use meanwhile has been noted by then.
        let look = move |_: &Path| {
            let (open, users) = (files::open_files(&roots), logs::last_users(&places.guest_logs));
            let bridges = files::bridges(Path::new("/sys/class/net"));
            Ok((open, users, bridges, touched::read(&places.runtime_dir), files::records(&places.journal)))
        };
        let seen = self.disks.run("looking at processes in", Path::new("/proc/."), LOOK, look).await;
        (facts.open, facts.last_users, facts.bridges, facts.touched, facts.journal) =
            seen.map_err(|source| GatherError::Look { source })?;
        facts.now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
        Ok(facts)
    }

    /// Files of local pools and of the places beside them.
    async fn pools(&self, table: &[mounts::Mounted], facts: &mut Facts) {
        let mut wanted = Vec::new();
        for pool in &self.places.pools {
            if let Some(kind) = shared_by(pool, table) {
                let pool = pool.display();
                facts.left_out.push(format!("{pool} is on {kind}: other hosts may use what is there"));
                continue;
            }
            wanted.push((Place::Pool, pool.clone(), pool.clone()));
            wanted.push((Place::Snapshots, pool.clone(), pool.join("snapshots")));
            wanted.push((Place::ConfigDrives, pool.clone(), pool.join("configdrive")));
        }
        let cache = self.places.host_cache.join("config");
        wanted.push((Place::ConfigDrives, cache.clone(), cache));
        wanted.extend(self.places.nvram.iter().map(|path| (Place::Nvram, path.clone(), path.clone())));
        let temporary = &self.places.temporary;
        if !self.places.pools.contains(temporary) {
            wanted.push((Place::Temporary, temporary.clone(), temporary.clone()));
        }
        let below = temporary.join("template");
        wanted.push((Place::Temporary, below.clone(), below));
        let mut found: BTreeMap<PathBuf, FileFact> = BTreeMap::new();
        for (place, root, directory) in wanted {
            let probe = directory.join(".");
            let look = move |_: &Path| files::look(place, &root, &directory);
            match self.disks.run("looking through", &probe, LOOK, look).await {
                Ok(files) => {
                    for file in files {
                        found.entry(file.path.clone()).or_insert(file);
                    }
                }
                Err(error) => {
                    facts.blind.push(format!("Pools cannot be judged: {}", crate::errors::chain(&error)))
                }
            }
        }
        facts.files = found.into_values().collect();
        match self.hypervisor.pools().await {
            Ok(pools) => {
                for pool in pools {
                    let path = pool.path.unwrap_or_else(|| pool.name.clone());
                    if !self.places.pools.iter().any(|local| Path::new(&path) == local) {
                        facts
                            .left_out
                            .push(format!("{path} is no local pool: other hosts may use what is there"));
                    }
                }
            }
            Err(error) => facts.left_out.push(format!("Pools of libvirt are not known: {error}")),
        }
    }

    async fn guests(&self, blind: &mut Vec<String>) -> Result<Vec<GuestFact>, GatherError> {
        let mut guests: BTreeMap<String, GuestFact> = BTreeMap::new();
        for flavour in [Flavour::Live, Flavour::Inactive] {
            let documents = self.hypervisor.documents(flavour).await;
            for document in documents.map_err(|source| GatherError::Guests { source })? {
                let guest = guests.entry(document.name.clone()).or_default();
                let root = xml::parse(&document.xml)
                    .map_err(|source| GatherError::Description { guest: document.name.clone(), source })?;
                named(&root, &mut guest.uses);
                guest.running |= !is_off(document.state);
                guest.name = document.name;
            }
        }
        let mut chains: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for guest in guests.values_mut() {
            let paths: Vec<String> =
                guest.uses.iter().filter(|used| used.starts_with('/')).cloned().collect();
            for path in paths {
                if !chains.contains_key(&path) {
                    chains.insert(path.clone(), self.chain(&path, &guest.name, blind).await);
                }
                guest.uses.extend(chains.get(&path).into_iter().flatten().cloned());
            }
        }
        Ok(guests.into_values().collect())
    }

    async fn chain(&self, path: &str, guest: &str, blind: &mut Vec<String>) -> Vec<String> {
        let read = self.disks.run("reading the header of", Path::new(path), CHAIN, files::chain);
        match read.await {
            Ok(chain) => chain.into_iter().filter_map(|path| path.to_str().map(str::to_owned)).collect(),
            Err(error) => {
                let error = crate::errors::chain(&error);
                blind.push(format!(
                    "Pools cannot be judged, since what guest {guest} uses is not known: {error}"
                ));
                Vec::new()
            }
        }
    }

    /// NFS below the directory for mounts, with the pools of libvirt that are there.
    async fn mounts(&self, table: &[mounts::Mounted]) -> Vec<MountFact> {
        let pools = self.hypervisor.pools().await;
        let user = |target: &Path| match &pools {
            Ok(pools) => {
                let pool = pools.iter().find(|pool| pool.path.as_deref().map(Path::new) == Some(target));
                pool.map(|pool| format!("pool {}", pool.uuid))
            }
            Err(_) => Some("perhaps a pool".to_owned()),
        };
        let ours = table.iter().filter(|mounted| {
            mounted.kind.starts_with("nfs")
                && mounted.target.starts_with(&self.places.mounts)
                && super::names::is_uuid(super::facts::file_name(&mounted.target))
        });
        ours.map(|mounted| MountFact {
            target: mounted.target.clone(),
            source: mounted.source.clone(),
            user: user(&mounted.target),
        })
        .collect()
    }
}

fn is_off(state: DomainState) -> bool {
    state.power() == PowerState::Off
}

/// All values of attributes and all texts: what a guest may mean by them does not matter.
fn named(element: &Element, names: &mut BTreeSet<String>) {
    names.extend(element.attributes().map(|(_, value)| value.to_owned()));
    names.insert(element.text.clone());
    for child in &element.children {
        named(child, names);
    }
}

/// The kind of file system if it is one that several hosts use.
fn shared_by<'a>(path: &Path, table: &'a [mounts::Mounted]) -> Option<&'a str> {
    let covering = table.iter().filter(|mounted| path.starts_with(&mounted.target));
    let mounted = covering.max_by_key(|mounted| mounted.target.components().count())?;
    let shared = SHARED.contains(&mounted.kind.as_str()) || mounted.kind.starts_with("fuse.");
    shared.then_some(mounted.kind.as_str())
}
