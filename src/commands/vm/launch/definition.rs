//! A guest as this host would start it, and everything there that its definition names.

use super::cards::{self, Cards};
use super::media::Media;
use super::{facts, hooks};
use crate::commands::to::VirtualMachineTo;
use crate::commands::vm::guest_spec::{self, Inputs, Resolved};
use crate::commands::{Ctx, Fault};
use crate::guest::domain_xml;
use crate::journal::Work;

/// A guest that can be started. To be kept until it has been.
#[derive(Debug)]
pub(in crate::commands) struct Definition {
    pub media: Media,
    pub cards: Cards,
    /// The domain, with passwords: never log it.
    pub xml: Hidden,
}

/// A document with passwords.
pub(in crate::commands) struct Hidden(pub String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Definition {
    /// Finds disks and discs, tells libvirt passphrases, makes bridges; `work` takes all that back.
    pub(in crate::commands) async fn make(
        ctx: &Ctx,
        vm: &VirtualMachineTo,
        listen: Option<&str>,
        work: &mut Work,
    ) -> Result<Definition, Fault> {
        let config = ctx.config()?;
        let media = Media::resolve(ctx, vm).await?;
        media.define_secrets(ctx, work).await?;
        let cards = Cards::plug(ctx, vm, work).await?;
        let resolved = Resolved { disks: media.disks.clone(), bridges: cards.bridges.clone() };
        let host = facts::gather(ctx, &config).await;
        let inputs = Inputs { vm, config: &config, host: &host, resolved: &resolved, vnc_listen: listen };
        let mut built = guest_spec::build(inputs)?;
        for remark in &built.remarks {
            tracing::warn!(guest = vm.name, "{remark}");
        }
        cards::limit(ctx, &vm.name, &mut built.spec.devices.nics).await;
        let xml = hooks::transform(&config, &vm.name, domain_xml::domain(&built.spec).to_string()).await;
        Ok(Definition { media, cards, xml: Hidden(xml) })
    }
}
