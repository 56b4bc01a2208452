//! Renewal of leaves: an issuer renews itself, others ask an issuer that they are connected to, from half of their
//! leaf's life on and until it is done.

use std::time::{Duration, Instant};

use libp2p::{PeerId, request_response as rr};
use paceline_proto::{
    credential::Credential,
    id::{NodeId, UnixSeconds},
    node::Input,
};
use rand::seq::IndexedRandom as _;

use super::{Asked, Done, Driver, IDLE_MAX, RENEWALS_MAX, Timer};
use crate::control::{
    jittered, node_of,
    rpc::{Ask, Response},
};
use crate::mesh::security;
use crate::trust::RenewRequest;

/// First pause after a failure, doubled up to the last.
pub(super) const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_LAST: Duration = Duration::from_secs(60);

impl Driver {
    /// Sets the timer by the chain in use.
    pub(super) fn plan_renewal(&mut self) {
        if let Some(UnixSeconds(at)) = self.trust.renew_at() {
            // the clock may be set while we wait: looked at again within the hour
            let wait = Duration::from_secs(at.saturating_sub(self.trust.now().0)).min(IDLE_MAX);
            self.timers.insert(Timer::Renew, Instant::now() + wait);
        }
    }

    pub(super) fn renewing_is_due(&self) -> bool {
        !self.renewing && self.trust.renew_at().is_some_and(|at| at <= self.trust.now())
    }

    pub(super) fn renew(&mut self) {
        if !self.renewing_is_due() {
            return self.plan_renewal();
        }
        self.renewing = true;
        if self.trust.is_issuer() {
            let trust = self.trust.clone();
            self.tasks.spawn_blocking(move || Done::Renewed(trust.renew_self().map(|_| ()).map_err(|e| e.to_string())));
            return;
        }
        let issuers: Vec<(PeerId, NodeId)> =
            self.links.iter().filter(|(_, l)| l.credential.issuer).map(|(p, l)| (*p, l.credential.node)).collect();
        match issuers.choose(&mut rand::rng()) {
            Some((peer, node)) => {
                let request = Ask::Renew(self.trust.renew_request());
                self.ask(*peer, node, request, Asked::Renewal);
            }
            None => self.renewal_failed("connected to no issuer"),
        }
    }

    pub(super) fn on_renewal_answer(&mut self, peer: &PeerId, response: Response) {
        match response {
            Response::Issued(issued) => {
                let trust = self.trust.clone();
                self.tasks.spawn_blocking(move || {
                    Done::Renewed(trust.accept(&issued).map(|_| ()).map_err(|e| e.to_string()))
                });
            }
            Response::Refused(reason) => {
                let who = node_of(peer).map(|n| n.short()).unwrap_or_default();
                self.renewal_failed(&format!("issuer {who}: {}", crate::control::words(&reason)));
            }
            Response::Done | Response::Unreached => self.renewal_failed("the issuer sent no certificate"),
        }
    }

    pub(super) fn renewal_failed(&mut self, why: &str) {
        tracing::warn!(%why, "this node's certificate is due and was not renewed yet");
        self.renewing = false;
        self.timers.insert(Timer::Renew, Instant::now() + jittered(self.renewal_pause));
        self.renewal_pause = (self.renewal_pause * 2).min(PAUSE_LAST);
    }

    pub(super) fn renewed(&mut self, result: Result<(), String>) {
        if let Err(why) = result {
            return self.renewal_failed(&why);
        }
        self.renewing = false;
        self.renewal_pause = PAUSE_FIRST;
        self.plan_renewal();
        let Some(own) = self.trust.own() else { return };
        tracing::info!(until = own.credential.not_after.0, "certificate renewed");
        if let Err(e) = self.data.set_security(security(&self.trust)) {
            tracing::error!(error = %e, "the data plane goes on with the old certificate");
        }
        self.input(Input::Renewed(own.chain.clone()));
        let peers: Vec<(PeerId, NodeId)> = self.links.iter().map(|(p, l)| (*p, l.credential.node)).collect();
        for (peer, node) in peers {
            self.ask(peer, &node, Ask::Chain(own.chain.clone()), Asked::Told);
        }
    }

    /// The issuer's side.
    pub(super) fn sign_renewal(
        &mut self,
        credential: Credential,
        request: RenewRequest,
        channel: rr::ResponseChannel<Response>,
    ) {
        if self.signing >= RENEWALS_MAX {
            let _ = self.swarm.behaviour_mut().rpc.send_response(channel, Response::Refused("busy".into()));
            return;
        }
        self.signing += 1;
        let trust = self.trust.clone();
        self.tasks.spawn_blocking(move || {
            let response = match trust.renew(&credential, &request) {
                Ok(issued) => Response::Issued(Box::new(issued)),
                Err(e) => Response::Refused(e.to_string()),
            };
            Done::Signed { channel, response }
        });
    }
}
