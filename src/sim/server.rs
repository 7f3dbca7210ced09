//! The simulated server: its port, its connections, its end and its restarts.

use super::connection;
use super::event::{ConnectionNumber, Recorded, SimEvent, Violation};
use super::ledger::{EventStream, HostRow, Ledger};
use super::order::{Answers, Order, SendError};
use super::pki::{KeyKind, Pki, PkiError};
use super::profile::{Command, Profile};
use super::scenario::{Knobs, Script, SshKeys};
use super::tls::{ClientCertificate, ServerTls, TlsSetupError};
use crate::wire::{Element, Flags};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

/// Pending connections that the port holds; a fleet may dial at once.
const BACKLOG: u32 = 4_096;

/// Settings of a simulated server.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// Port 0 takes any free one.
    pub listen: SocketAddr,
    pub script: Script,
    /// Decides sequences, pauses and noise.
    pub seed: u64,
    /// Told to agents in whole seconds, at least 1.
    pub ping_interval: Duration,
    pub profile: Profile,
    pub client_certificate: ClientCertificate,
    pub ssh_keys: SshKeys,
    /// Statistics are asked for this often, if at all.
    pub stats: Option<Duration>,
    /// Batches sent after Ready, each after the answer to the one before.
    pub after_ready: Vec<Vec<Element>>,
    /// Least time between the loss of a Ready session and the next dial; zero allows any.
    pub reconnect_gap: Duration,
    /// `msHostList` of the second `ReadyCommand`.
    pub servers: Vec<String>,
    pub knobs: Knobs,
    /// CA to use; `None` makes one.
    pub pki: Option<Arc<Pki>>,
}

impl Default for SimConfig {
    /// Any port of 127.0.0.1, scenario normal, pings every second, seed 1.
    fn default() -> SimConfig {
        SimConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            script: Script::default(),
            seed: 1,
            ping_interval: Duration::from_secs(1),
            profile: Profile::default(),
            client_certificate: ClientCertificate::default(),
            ssh_keys: SshKeys::default(),
            stats: None,
            after_ready: Vec::new(),
            reconnect_gap: Duration::from_secs(5),
            servers: vec!["127.0.0.1".to_owned()],
            knobs: Knobs::default(),
            pki: None,
        }
    }
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    #[error("Simulated server cannot listen on {address}: choose a free port")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("Simulated server has no key material")]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub config: SimConfig,
    pub given: Vec<Command>,
    pub ledger: Arc<Ledger>,
    pub tls: ServerTls,
    pub other_tls: ServerTls,
    pub control: mpsc::UnboundedSender<Control>,
}

/// What is asked of the listener task.
#[derive(Debug)]
pub(super) enum Control {
    Stop { done: oneshot::Sender<()> },
    Restart { down: Duration, done: Option<oneshot::Sender<()>> },
}

/// A running server. Dropping it ends everything at once, without a trace in the record.
#[derive(Debug)]
pub struct SimServer {
    shared: Arc<Shared>,
    pki: Arc<Pki>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl SimServer {
    /// Binds the port and starts to accept.
    pub async fn start(config: SimConfig) -> Result<SimServer, SimError> {
        let pki = match &config.pki {
            Some(pki) => Arc::clone(pki),
            None => Arc::new(Pki::new(KeyKind::Ecdsa)?),
        };
        let listener =
            bind(config.listen).map_err(|source| SimError::Listen { address: config.listen, source })?;
        let address =
            listener.local_addr().map_err(|source| SimError::Listen { address: config.listen, source })?;
        let (control, orders) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            given: config.after_ready.iter().cloned().map(Command::Given).collect(),
            tls: ServerTls::new(&pki)?,
            other_tls: ServerTls::new(&Pki::new(KeyKind::Ecdsa)?)?,
            ledger: Ledger::new(),
            control,
            config,
        });
        shared.ledger.record(0, SimEvent::Listening { address });
        let host = Host { shared: Arc::clone(&shared), address, connections: 0 };
        let task = tokio::spawn(host.run(listener, orders));
        Ok(SimServer { shared, pki, address, task })
    }

    /// Where it listens; stays the same over restarts.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The present moment on the clock of [`Recorded::at`].
    pub fn now(&self) -> Duration {
        self.shared.ledger.now()
    }

    /// The CA that it presents and signs with.
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// Everything that happened so far, then what happens next.
    pub fn events(&self) -> EventStream {
        self.shared.ledger.stream()
    }

    /// A copy of everything that happened so far.
    pub fn recorded(&self) -> Vec<Recorded> {
        self.shared.ledger.recorded()
    }

    /// Rules that agents broke, in order.
    pub fn violations(&self) -> Vec<Violation> {
        self.shared.ledger.violations()
    }

    /// Host rows by id.
    pub fn hosts(&self) -> Vec<HostRow> {
        self.shared.ledger.hosts()
    }

    /// The host row of `guid` (with its resource suffix, as registered).
    pub fn host(&self, guid: &str) -> Option<HostRow> {
        self.hosts().into_iter().find(|row| row.guid == guid)
    }

    /// Sends one batch to a registered host and gives its answers. `flags`: `STOP_ON_ERROR` and
    /// `IN_SEQUENCE` as wanted. Waits without limit: wrap it in a timeout. The order of calls is the
    /// order on the wire, except that in-sequence batches wait for each other.
    pub fn send(
        &self,
        host_id: i64,
        elements: Vec<Element>,
        flags: Flags,
    ) -> impl Future<Output = Result<Answers, SendError>> + use<> {
        let (reply, answers) = oneshot::channel();
        let sent = match self.shared.ledger.orders(host_id) {
            None => Err(SendError::NotRegistered(host_id)),
            Some(orders) => {
                orders.send(Order::Send { elements, flags, reply }).map_err(|_| SendError::Closed)
            }
        };
        async move {
            sent?;
            answers.await.unwrap_or(Err(SendError::Closed))
        }
    }

    /// Closes the port and all connections, with FIN and without close_notify; returns when all are
    /// closed.
    pub async fn stop(&self) {
        let (done, finished) = oneshot::channel();
        if self.shared.control.send(Control::Stop { done }).is_ok() {
            // An error means that it had stopped before.
            let _ = finished.await;
        }
    }

    /// Closes everything like [`SimServer::stop`], refuses connections for `down`, opens the same
    /// port again; returns when it is open.
    pub async fn restart_after(&self, down: Duration) {
        let (done, finished) = oneshot::channel();
        if self.shared.control.send(Control::Restart { down, done: Some(done) }).is_ok() {
            let _ = finished.await;
        }
    }
}

impl Drop for SimServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Without it the port stays taken by connections in TIME_WAIT, and a restart fails.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Waits for an order to stop. Orders to restart that come meanwhile are part of the restart that
/// is going on; their callers join `waiting`.
async fn next_stop(
    orders: &mut mpsc::UnboundedReceiver<Control>,
    waiting: &mut Vec<oneshot::Sender<()>>,
) -> Option<Control> {
    loop {
        match orders.recv().await {
            Some(Control::Restart { done, .. }) => waiting.extend(done),
            other => return other,
        }
    }
}

/// The listener task.
struct Host {
    shared: Arc<Shared>,
    address: SocketAddr,
    connections: ConnectionNumber,
}

impl Host {
    async fn run(mut self, first: TcpListener, mut orders: mpsc::UnboundedReceiver<Control>) {
        let mut listener = first;
        loop {
            let mut waiting = Vec::new();
            let mut order = self.accept_until(listener, &mut orders).await;
            if let Some(Control::Restart { down, done }) = order {
                waiting.extend(done);
                self.shared.ledger.record(0, SimEvent::Stopped { down: Some(down) });
                order = tokio::time::timeout(down, next_stop(&mut orders, &mut waiting)).await.ok().flatten();
            }
            if let Some(Control::Stop { done }) = order {
                self.shared.ledger.record(0, SimEvent::Stopped { down: None });
                // The caller may have stopped waiting.
                let _ = done.send(());
                return;
            }
            listener = self.bind_again().await;
            self.shared.ledger.record(0, SimEvent::Listening { address: self.address });
            for done in waiting {
                let _ = done.send(());
            }
        }
    }

    /// Accepts until told otherwise; on return the port is closed and so are all connections.
    async fn accept_until(
        &mut self,
        listener: TcpListener,
        orders: &mut mpsc::UnboundedReceiver<Control>,
    ) -> Option<Control> {
        let (stopper, stop) = watch::channel(());
        let mut tasks = JoinSet::new();
        let order = loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let Ok((tcp, peer)) = accepted else {
                        // Out of file descriptors: give connections time to end.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    };
                    self.connections += 1;
                    let shared = Arc::clone(&self.shared);
                    tasks.spawn(connection::serve(shared, self.connections, tcp, peer, stop.clone()));
                }
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                order = orders.recv() => break order,
            }
        };
        drop(listener);
        drop(stopper);
        while tasks.join_next().await.is_some() {}
        order
    }

    async fn bind_again(&self) -> TcpListener {
        loop {
            match bind(self.address) {
                Ok(listener) => return listener,
                Err(error) => {
                    tracing::warn!(address = %self.address, %error, "port is taken, trying again");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}
