//! Who is thrown out, between the disk, the core and both planes.

use std::{collections::BTreeMap, sync::Arc};

use paceline_proto::{
    credential::Credential,
    id::NodeId,
    node::Input,
    revocation::{Revocations, SignedList},
};

use super::Driver;

/// What the present certificates of members prove.
pub(crate) type Credentials = BTreeMap<NodeId, Arc<Credential>>;

impl Driver {
    /// The disk has other lists than before, whoever brought them: the core closes what the control plane has of the
    /// revoked, and the data plane closes its own.
    pub(super) fn on_revocations(&mut self, known: &Revocations) {
        self.data.judge_anew(|credential| known.judge(credential));
        self.input(Input::Revoked(known.lists()));
    }

    /// The core has taken lists: on disk and in force before it goes on.
    pub(super) fn persist_revoked(&self, lists: &[SignedList]) {
        if let Err(error) = self.trust.take_revocations(lists) {
            tracing::error!(%error, "the core took a list of the revoked that is none");
        }
        let known = self.trust.revocations();
        self.data.judge_anew(|credential| known.judge(credential));
    }
}
