//! `GET /`: one page of HTML that says what is here and how to call it. No script, nothing from elsewhere.

use std::{fmt::Write, sync::Arc};

use axum::{extract::State, response::IntoResponse};
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};

use super::{services::summaries, workers};
use crate::{cluster::Cluster, lane::Shared, pipeline::answer::path_word};

const HEAD: &str = "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
<title>Paceline</title><style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
table{border-collapse:collapse;width:100%;margin:.5rem 0 2rem}td,th{text-align:left;padding:.3rem .8rem .3rem 0;\
border-bottom:1px solid #8884}code{background:#8882;padding:.1rem .3rem;border-radius:3px}.available,.healthy{color:#2a7}\
.degraded,.suspect,.draining{color:#b80}.unavailable,.dead{color:#c33}:root{color-scheme:light dark}</style>\n";

pub(super) async fn page<C: Cluster>(State(shared): State<Arc<Shared<C>>>) -> impl IntoResponse {
    let view = shared.cluster.view();
    let services = summaries(&view);
    let workers = workers::list(&shared);
    let mut html = String::from(HEAD);
    // Writing to a String cannot fail: the results are dropped.
    let _ = write!(
        html,
        "<h1>Paceline</h1><p>Cluster <code>{}</code>, {} services, {} workers. This page shows the moment it was \
         loaded.</p><h2>Services</h2>",
        view.cluster.short(),
        services.len(),
        workers.len()
    );
    if services.is_empty() {
        html.push_str("<p>No service yet. Offer one: <code>paceline up --serve files=DIR</code></p>");
    } else {
        html.push_str("<table><tr><th>Service<th>Status<th>Healthy workers<th>Call it\n");
        for (name, service) in &services {
            let status = service.status.as_str();
            let _ = writeln!(
                html,
                "<tr><td>{0}<td class={status}>{status}<td>{1} of {2}<td><a href='/api/service/{0}/'><code>/api/service/{0}/</code></a>",
                escape(name),
                service.healthy_workers,
                service.total_workers
            );
        }
        html.push_str("</table>");
    }
    html.push_str("<h2>Workers</h2><table><tr><th>Worker<th>State<th>Site<th>Path<th>Services\n");
    for worker in &workers {
        let _ = writeln!(
            html,
            "<tr><td>{}<td class={1}>{1}<td>{2}<td>{3}<td>{4}",
            escape(&worker.id),
            worker.status,
            escape(&worker.site),
            worker.path.map_or("not connected", path_word),
            escape(&worker.services.join(", "))
        );
    }
    html.push_str(
        "</table><h2>More</h2><p>As JSON: <a href='/health'>health</a>, <a href='/api/admin/services'>services</a>, \
         <a href='/api/admin/workers'>workers</a>, <a href='/api/admin/cluster'>cluster</a>, \
         <a href='/api/admin/stats'>stats</a>. For Prometheus: <a href='/metrics'>metrics</a>.</p></html>\n",
    );
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    ];
    (headers, html)
}

fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_text() {
        assert_eq!(escape("<a href='x'>&\""), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;");
    }
}
