//! The certificates of a simulated cluster: real ones, judged by the real nodes, made from the seed.

use ed25519_dalek::SigningKey;
use paceline_proto::credential::{Chain, Root};
use paceline_proto::id::{ClusterId, NodeId, Role, UnixSeconds};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ED25519, SanType, SubjectPublicKeyInfo,
};
use rustls_pki_types::PrivatePkcs8KeyDer;

use super::rng::Rng;

/// The wall clock at which every run begins, in seconds since 1970: shortly after midnight UTC.
pub const START: UnixSeconds = UnixSeconds(1_790_035_260);
/// Certificates begin this long before, and last so long: no run sees their end unless a clock jumps by years.
const BACKDATE_S: u64 = 86_400;
const LIFE_S: u64 = 3_650 * 86_400;
// PKCS#8 and SubjectPublicKeyInfo around the 32 bytes of an Ed25519 key (RFC 8410).
const PRIVATE_HEAD: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
const PUBLIC_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Admits hosts.
pub struct Authority {
    /// What members trust.
    pub root: Root,
    issuer: Issuer<'static, KeyPair>,
    intermediate: Vec<u8>,
}

/// A fresh key.
pub fn key(rng: &mut Rng) -> SigningKey {
    let mut bytes = [0; 32];
    bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&rng.next_u64().to_le_bytes()));
    SigningKey::from_bytes(&bytes)
}

/// Whose key it is.
pub fn node_id(key: &SigningKey) -> NodeId {
    NodeId::from_bytes(key.verifying_key().to_bytes())
}

impl Authority {
    /// Founds a cluster.
    ///
    /// # Errors
    /// Of rcgen; none is expected.
    pub fn new(rng: &mut Rng) -> anyhow::Result<Self> {
        let key = pair(&key(rng))?;
        let params = authority("simulated root", 1)?;
        let der = params.self_signed(&key)?.der().to_vec();
        let root = Root::new(der)?;
        let parent = Issuer::new(params, key);
        let key = pair(&self::key(rng))?;
        let mut params = authority("simulated issuer", 0)?;
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(root.cluster().dns_suffix())],
            excluded_subtrees: Vec::new(),
        });
        let intermediate = params.signed_by(&key, &parent)?.der().to_vec();
        Ok(Self { root, issuer: Issuer::new(params, key), intermediate })
    }

    /// Whose.
    pub fn cluster(&self) -> ClusterId {
        self.root.cluster()
    }

    /// A chain for a host in these roles; the founder's says besides that it may admit others.
    ///
    /// # Errors
    /// Of rcgen; none is expected.
    pub fn admit(&self, node: &NodeId, roles: &[Role], founder: bool) -> anyhow::Result<Chain> {
        let cluster = self.cluster();
        let mut params = base(&node.short())?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names.push(SanType::DnsName(node.dns_name(&cluster).try_into()?));
        let paths = roles.iter().map(|role| role.as_str()).chain(founder.then_some("issuer"));
        for path in paths {
            params.subject_alt_names.push(SanType::URI(format!("spiffe://{cluster}/{path}").try_into()?));
        }
        let mut public = PUBLIC_HEAD.to_vec();
        public.extend_from_slice(node.as_bytes());
        let leaf = params.signed_by(&SubjectPublicKeyInfo::from_der(&public)?, &self.issuer)?.der().to_vec();
        Ok(Chain { leaf, intermediate: self.intermediate.clone() })
    }
}

fn pair(key: &SigningKey) -> anyhow::Result<KeyPair> {
    let der = [&PRIVATE_HEAD[..], &key.to_bytes()].concat();
    Ok(KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(der), &PKCS_ED25519)?)
}

fn base(name: &str) -> anyhow::Result<CertificateParams> {
    let date = |at: u64| time::OffsetDateTime::from_unix_timestamp(i64::try_from(at).unwrap_or(i64::MAX));
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date(START.0 - BACKDATE_S)?;
    params.not_after = date(START.0 + LIFE_S)?;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn authority(name: &str, path_length: u8) -> anyhow::Result<CertificateParams> {
    let mut params = base(name)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_admits_what_was_admitted_and_a_seed_gives_the_same_again() {
        let made = |seed| {
            let mut rng = Rng::new(seed);
            let authority = Authority::new(&mut rng).expect("a cluster");
            let node = node_id(&key(&mut rng));
            let chain = authority.admit(&node, &[Role::Worker], false).expect("a chain");
            assert_eq!(authority.root.judge(&chain, START).expect("good").node, node);
            (authority.cluster(), chain)
        };
        assert_eq!(made(3), made(3));
        assert_ne!(made(3).0, made(4).0);
    }
}
