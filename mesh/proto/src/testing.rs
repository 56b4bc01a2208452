//! Certificates for tests: a root, an intermediate and leaves, all from seeds, so that one seed gives the same ids again.
//!
//! Only for tests: everything here panics where it cannot go on.

use std::collections::BTreeSet;

use ed25519_dalek::SigningKey;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ED25519, SanType, SubjectPublicKeyInfo,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use time::OffsetDateTime;

use crate::credential::{Chain, Root};
use crate::id::{ClusterId, NodeId, Role, Roles, ServiceName, UnixSeconds};

/// The time at which tests begin.
pub(crate) const START: UnixSeconds = UnixSeconds(1_790_000_000);
/// Life of a leaf, unless a test says otherwise, in seconds.
pub(crate) const LEAF_LIFE_S: u64 = 30 * 86_400;
/// How far certificates are backdated, in seconds.
pub(crate) const BACKDATE_S: u64 = 300;

/// The signing key of a seed.
pub(crate) fn key(seed: u64) -> SigningKey {
    let mut bytes = [0x5a; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    SigningKey::from_bytes(&bytes)
}

/// The node whose key this is.
pub(crate) fn node_id(key: &SigningKey) -> NodeId {
    NodeId::from_bytes(key.verifying_key().to_bytes())
}

/// A service name that is known to be one.
pub(crate) fn service_name(name: &str) -> ServiceName {
    ServiceName::new(name).expect("a service name")
}

/// The key as rcgen wants it (PKCS#8, version 1).
pub(crate) fn key_pair(key: &SigningKey) -> KeyPair {
    let mut der = vec![0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    der.extend_from_slice(&key.to_bytes());
    KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(der), &PKCS_ED25519).expect("an Ed25519 key")
}

/// The public key as rcgen wants it.
pub(crate) fn public_key_info(node: &NodeId) -> SubjectPublicKeyInfo {
    let mut der = vec![0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    der.extend_from_slice(node.as_bytes());
    SubjectPublicKeyInfo::from_der(&der).expect("an Ed25519 key")
}

fn date(at: UnixSeconds) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(i64::try_from(at.0).expect("a date")).expect("a date")
}

fn base(common_name: &str, not_before: UnixSeconds, not_after: UnixSeconds) -> CertificateParams {
    let mut p = CertificateParams::default();
    p.distinguished_name = DistinguishedName::new();
    p.distinguished_name.push(DnType::CommonName, common_name);
    p.not_before = date(not_before);
    p.not_after = date(not_after);
    p.use_authority_key_identifier_extension = true;
    p
}

fn ca(common_name: &str, path_length: u8, not_before: UnixSeconds, not_after: UnixSeconds) -> CertificateParams {
    let mut p = base(common_name, not_before, not_after);
    p.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    p.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    p
}

/// What a leaf is to say.
#[derive(Clone, Debug)]
pub(crate) struct LeafSpec {
    pub(crate) roles: Roles,
    pub(crate) issuer: bool,
    /// `None` is any.
    pub(crate) services: Option<BTreeSet<ServiceName>>,
    pub(crate) not_before: UnixSeconds,
    pub(crate) not_after: UnixSeconds,
}

impl LeafSpec {
    /// These roles, any service, the usual life.
    pub(crate) fn roles(roles: &[Role]) -> Self {
        Self {
            roles: roles.iter().copied().collect(),
            issuer: false,
            services: None,
            not_before: UnixSeconds(START.0 - BACKDATE_S),
            not_after: UnixSeconds(START.0 + LEAF_LIFE_S),
        }
    }

    /// A worker that may offer anything.
    pub(crate) fn worker() -> Self {
        Self::roles(&[Role::Worker])
    }

    /// Bound to these services.
    pub(crate) fn only(mut self, services: &[&str]) -> Self {
        self.services = Some(services.iter().map(|s| service_name(s)).collect());
        self
    }
}

/// A cluster's root and one issuer.
pub(crate) struct TestCluster {
    /// The root, as members know it.
    pub(crate) root: Root,
    /// Signs intermediates.
    pub(crate) root_issuer: Issuer<'static, KeyPair>,
    /// Signs leaves.
    pub(crate) issuer: Issuer<'static, KeyPair>,
    /// The issuer's certificate (DER).
    pub(crate) intermediate: Vec<u8>,
}

impl TestCluster {
    /// The same seed gives the same cluster.
    pub(crate) fn new(seed: u64) -> Self {
        Self::with_intermediate(seed, |_| ())
    }

    /// A cluster whose intermediate is changed before it is signed.
    pub(crate) fn with_intermediate(seed: u64, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let not_before = UnixSeconds(START.0 - BACKDATE_S);
        let not_after = UnixSeconds(START.0 + 3_650 * 86_400);
        let root_key = key_pair(&key(seed ^ 0xc1a5_7e12_0000_0000));
        let root_params = ca(&format!("paceline root {seed:x}"), 1, not_before, not_after);
        let root_der = root_params.self_signed(&root_key).expect("a root").der().to_vec();
        let root_issuer = Issuer::new(root_params, root_key);
        let root = Root::new(root_der).expect("a root");

        let key = key_pair(&key(seed ^ 0x1554_e200_0000_0000));
        let mut params = Self::authority_params(&root);
        change(&mut params);
        let intermediate = params.signed_by(&key, &root_issuer).expect("an intermediate").der().to_vec();
        let issuer = Issuer::new(params, key);
        Self { root, root_issuer, issuer, intermediate }
    }

    /// What an issuer's certificate says, before it is signed.
    pub(crate) fn authority_params(root: &Root) -> CertificateParams {
        let not_before = UnixSeconds(START.0 - BACKDATE_S);
        let not_after = UnixSeconds(START.0 + 3_650 * 86_400);
        let mut params = ca(&format!("paceline issuer {}", root.cluster().short()), 0, not_before, not_after);
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(root.cluster().dns_suffix())],
            excluded_subtrees: Vec::new(),
        });
        params
    }

    /// Its id.
    pub(crate) fn id(&self) -> ClusterId {
        self.root.cluster()
    }

    /// A chain for the node.
    pub(crate) fn chain(&self, node: &NodeId, spec: &LeafSpec) -> Chain {
        self.chain_with(node, spec, |_| ())
    }

    /// A chain for the node whose leaf is changed before it is signed.
    pub(crate) fn chain_with(
        &self,
        node: &NodeId,
        spec: &LeafSpec,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Chain {
        let cluster = self.id();
        let mut p = base(&node.short(), spec.not_before, spec.not_after);
        p.is_ca = IsCa::ExplicitNoCa;
        p.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let uri = |path: &str| SanType::URI(format!("spiffe://{cluster}/{path}").try_into().expect("ASCII"));
        p.subject_alt_names.push(SanType::DnsName(node.dns_name(&cluster).try_into().expect("ASCII")));
        p.subject_alt_names.extend(spec.roles.iter().map(|r| uri(r.as_str())));
        if spec.issuer {
            p.subject_alt_names.push(uri("issuer"));
        }
        for service in spec.services.iter().flatten() {
            p.subject_alt_names.push(uri(&format!("service/{service}")));
        }
        change(&mut p);
        let leaf = p.signed_by(&public_key_info(node), &self.issuer).expect("a leaf").der().to_vec();
        Chain { leaf, intermediate: self.intermediate.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_cluster_again() {
        let node = node_id(&key(7));
        let (a, b) = (TestCluster::new(1), TestCluster::new(1));
        assert_eq!(a.id(), b.id());
        let spec = LeafSpec { issuer: true, ..LeafSpec::worker().only(&["files"]) };
        assert_eq!(a.chain(&node, &spec), b.chain(&node, &spec));
        assert_ne!(a.id(), TestCluster::new(2).id());
        assert_eq!(a.root_issuer.key().serialized_der(), b.root_issuer.key().serialized_der());
    }
}
