//! One pass over the table, for a person who asks what is on this machine.

use std::{pin::pin, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use paceline_proto::id::ServiceName;
use tokio::time::{Instant, timeout_at};

use super::{
    LOOKS_MAX, Way, containers, found,
    known::{Known, built_in},
    look::{Verdict, look},
    names::Names,
    places,
};

/// For all places on 127.0.0.1; an endpoint that hangs takes 2 s.
const LOOPBACK_TIMEOUT: Duration = Duration::from_secs(3);
/// For all host names: where they lead to containers, the resolver is near.
const NAMES_TIMEOUT: Duration = Duration::from_secs(1);

/// Something that answers where a known service may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answering {
    /// Which service it would be.
    pub name: ServiceName,
    /// Where.
    pub url: String,
    /// The port of the table.
    pub port: u16,
    /// Why it is not taken; `None` where it is.
    pub refused: Option<String>,
}

async fn look_along(known: Known, names: Arc<Names>, way: Way) -> Vec<Answering> {
    let mut answering = Vec::new();
    for place in places(&known, &names, way).await {
        let refused = match look(&known, &place).await {
            Verdict::Is => None,
            Verdict::Other(why) | Verdict::Unclear(why) => Some(why),
            Verdict::Absent => continue,
        };
        if let Some(found) = found(&known, &place) {
            answering.push(Answering { name: found.name, url: found.url.to_string(), port: known.port, refused });
        }
    }
    answering
}

/// Looks once at each place of the built-in table, and at labelled containers; sorted by name.
pub async fn scan() -> Vec<Answering> {
    let names = Arc::new(Names::new(None));
    let mut all = Vec::new();
    for way in Way::order() {
        let found: Vec<&ServiceName> =
            all.iter().filter(|a: &&Answering| a.refused.is_none()).map(|a| &a.name).collect();
        let rows: Vec<Known> = built_in().into_iter().filter(|known| !found.contains(&&known.name)).collect();
        let looks = stream::iter(rows).map(|known| look_along(known, names.clone(), way)).buffer_unordered(LOOKS_MAX);
        // What answers before a slow resolver has gone through all names is enough for a person who waits.
        let until = Instant::now() + if way == Way::Names { NAMES_TIMEOUT } else { LOOPBACK_TIMEOUT };
        let mut looks = pin!(looks);
        while let Ok(Some(answering)) = timeout_at(until, looks.next()).await {
            all.extend(answering);
        }
    }
    for labelled in containers::look(&containers::sockets()).await.unwrap_or_default().into_iter().flatten() {
        let (port, url) = (labelled.url.port_u16().unwrap_or(80), labelled.url.to_string());
        all.push(Answering { name: labelled.name, url, port, refused: None });
    }
    all.sort_by(|a, b| (&a.name, &a.url).cmp(&(&b.name, &b.url)));
    all
}
