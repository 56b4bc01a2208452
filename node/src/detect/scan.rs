//! One pass over the table, for a person who asks what is on this machine.

use std::sync::Arc;

use futures::{StreamExt, stream};
use paceline_proto::id::ServiceName;

use super::{
    LOOKS_MAX, containers, found,
    known::built_in,
    look::{Verdict, look},
    names::Names,
    places,
};

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

/// Looks once at each place of the built-in table, and at labelled containers; sorted by name.
pub async fn scan() -> Vec<Answering> {
    let names = Arc::new(Names::new(None));
    let rows = stream::iter(built_in()).map(|known| {
        let names = names.clone();
        async move {
            let mut answering = Vec::new();
            for place in places(&known, &names).await {
                let refused = match look(&known, &place).await {
                    Verdict::Is => None,
                    Verdict::Other(why) | Verdict::Unclear(why) => Some(why),
                    Verdict::Absent => continue,
                };
                let Some(found) = found(&known, &place) else { continue };
                let done = refused.is_none();
                answering.push(Answering { name: found.name, url: found.url.to_string(), port: known.port, refused });
                if done {
                    break;
                }
            }
            answering
        }
    });
    let mut all: Vec<Answering> = rows.buffer_unordered(LOOKS_MAX).collect::<Vec<_>>().await.concat();
    for labelled in containers::look(&containers::sockets()).await.unwrap_or_default().into_iter().flatten() {
        let (port, url) = (labelled.url.port_u16().unwrap_or(80), labelled.url.to_string());
        all.push(Answering { name: labelled.name, url, port, refused: None });
    }
    all.sort_by(|a, b| (&a.name, &a.url).cmp(&(&b.name, &b.url)));
    all
}
