//! A run as a drawing: a lane for each host, its colour the leader that it believes in, its faults on top of it; above
//! them who led for all, and how many pairs of hosts were wrong about each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use super::HostId;
use super::leads::Lead;
use super::report::Report;
use super::world::{Mark, World};

const WIDTH: f64 = 1_480.0;
const LEFT: f64 = 96.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 78.0;
const LED: f64 = 22.0;
const CHART: f64 = 54.0;
/// Most lanes: of a large cluster, those that something happened to, and some others.
const LANES_MAX: usize = 48;
/// Most entries of the legend.
const LEADERS_MAX: usize = 14;
const COLOURS: [&str; 12] = [
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#edc948", "#9c755f", "#ff9da7", "#1b7f9e",
    "#8cd17d", "#d37295",
];
const NOBODY: &str = "#d9dde2";
const STYLE: &str = "text{font-family:system-ui,'Segoe UI',Helvetica,Arial,sans-serif;font-size:11px;fill:#333}\
.h{font-size:17px;font-weight:600;fill:#1a1a1a}.s{font-size:12px;fill:#666}.l{text-anchor:end;fill:#555}\
.bad{fill:#b3261e;font-weight:600}.t{text-anchor:middle;fill:#888}.m{text-anchor:middle;font-size:10px;fill:#444}";
const HATCHES: &str = r##"<defs>
<pattern id="hang" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="6" height="6" fill="#fff" opacity=".55"/><rect width="2" height="6" fill="#7a3b00"/></pattern>
<pattern id="dark" width="4" height="4" patternUnits="userSpaceOnUse"><rect width="4" height="4" fill="#111" opacity=".72"/></pattern>
<pattern id="partition" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(-45)"><rect width="7" height="7" fill="#fff" opacity=".45"/><rect width="2.2" height="7" fill="#6a1b9a"/></pattern>
<pattern id="one-way" width="8" height="5" patternUnits="userSpaceOnUse"><rect width="8" height="5" fill="#fff" opacity=".45"/><path d="M1 1l3 1.5-3 1.5" fill="none" stroke="#00695c" stroke-width="1.1"/></pattern>
<pattern id="clock" width="6" height="6" patternUnits="userSpaceOnUse"><circle cx="3" cy="3" r="1.3" fill="#37474f"/></pattern>
</defs>"##;

struct Canvas {
    text: String,
    end: f64,
    colours: BTreeMap<HostId, &'static str>,
}

/// Draws a run.
pub fn draw(world: &World, report: &Report) -> String {
    let lanes = lanes(world);
    let lane = (900.0 / lanes.len().max(1) as f64).clamp(12.0, 24.0);
    let leaders = leaders(world);
    let colours = leaders.iter().enumerate().map(|(n, host)| (*host, COLOURS[n % COLOURS.len()])).collect();
    let mut canvas = Canvas { text: String::new(), end: world.now.as_secs_f64().max(1e-3), colours };
    let lanes_top = TOP + LED + CHART + 34.0;
    let bottom = lanes_top + lane * lanes.len() as f64;
    let height = bottom + 92.0;
    let t = &mut canvas.text;
    _ = writeln!(
        t,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\">\n\
         <style>{STYLE}</style>{HATCHES}\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>"
    );
    canvas.head(world, report);
    canvas.axis(TOP - 6.0, bottom);
    canvas.led(world, TOP);
    canvas.chart(world, TOP + LED + 12.0);
    for (n, host) in lanes.iter().enumerate() {
        canvas.lane(world, *host, lanes_top + lane * n as f64, lane);
    }
    for mark in world.watched.marks.iter().filter(|m| m.host.is_none()) {
        canvas.everywhere(mark, lanes_top, bottom);
    }
    canvas.legend(world, &leaders, bottom + 34.0);
    canvas.text.push_str("</svg>\n");
    canvas.text
}

/// All of a small cluster; of a large one those with faults, the leaders, and the first ones.
fn lanes(world: &World) -> Vec<HostId> {
    let marked = world.watched.marks.iter().filter_map(|m| m.host);
    let mut chosen: BTreeSet<_> = marked.chain(leaders(world)).take(LANES_MAX).collect();
    for host in 0..world.hosts.len() as HostId {
        if chosen.len() >= LANES_MAX {
            break;
        }
        chosen.insert(host);
    }
    chosen.into_iter().collect()
}

/// In the order in which somebody believed in them.
fn leaders(world: &World) -> Vec<HostId> {
    let mut leaders = Vec::new();
    for leader in world.leads.changes().iter().filter_map(|(_, _, lead)| lead.as_ref()?.leader) {
        if !leaders.contains(&leader) {
            leaders.push(leader);
        }
    }
    leaders
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Canvas {
    fn x(&self, at: Duration) -> f64 {
        LEFT + at.as_secs_f64() / self.end * (WIDTH - LEFT - RIGHT)
    }

    fn colour(&self, leader: Option<HostId>) -> &'static str {
        leader.and_then(|l| self.colours.get(&l).copied()).unwrap_or(NOBODY)
    }

    fn head(&mut self, world: &World, report: &Report) {
        let about = if world.scenario.about.is_empty() { &report.scenario } else { &world.scenario.about };
        let verdict = match report.violations.first() {
            None => "<tspan>every invariant holds</tspan>".to_owned(),
            Some(v) => format!(
                "<tspan class=\"bad\">{}</tspan>",
                escaped(&format!("violated at {:.1} s: {}", v.at_s, v.invariant))
            ),
        };
        _ = writeln!(
            self.text,
            "<text class=\"h\" x=\"24\" y=\"30\">{}</text><text class=\"s\" x=\"24\" y=\"50\">{}, seed {}, {} hosts, {:.0} s of \
             virtual time; {verdict}</text>",
            escaped(about),
            escaped(&report.scenario),
            report.seed,
            report.nodes,
            report.virtual_s
        );
    }

    fn axis(&mut self, top: f64, bottom: f64) {
        let step = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 7_200.0, 21_600.0]
            .into_iter()
            .find(|step| self.end / step <= 16.0)
            .unwrap_or(86_400.0);
        let mut at = 0.0;
        while at <= self.end {
            let x = self.x(Duration::from_secs_f64(at));
            _ = writeln!(
                self.text,
                "<path d=\"M{x:.1} {top:.0}V{bottom:.0}\" stroke=\"#eceff1\"/><text class=\"t\" x=\"{x:.1}\" y=\"{:.0}\">{at:.0} s</text>",
                bottom + 14.0
            );
            at += step;
        }
    }

    fn rect(&mut self, from: Duration, to: Duration, y: f64, height: f64, fill: &str, more: &str) {
        let (x, end) = (self.x(from), self.x(to));
        let width = (end - x).max(0.6);
        _ = writeln!(
            self.text,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\"{more}/>"
        );
    }

    /// The leader that most believe in, at each time.
    fn led(&mut self, world: &World, y: f64) {
        _ = writeln!(
            self.text,
            "<text class=\"l\" x=\"{}\" y=\"{}\">leader of most</text>",
            LEFT - 8.0,
            y + LED * 0.68
        );
        let mut believed: BTreeMap<HostId, Option<HostId>> = BTreeMap::new();
        let (mut since, mut leader) = (Duration::ZERO, None);
        let changes = world.leads.changes();
        for (n, (at, host, lead)) in changes.iter().enumerate() {
            match lead {
                Some(lead) => _ = believed.insert(*host, lead.leader),
                None => _ = believed.remove(host),
            }
            if changes.get(n + 1).is_some_and(|(next, ..)| next == at) {
                continue;
            }
            let mut counts: BTreeMap<HostId, usize> = BTreeMap::new();
            believed.values().flatten().for_each(|l| *counts.entry(*l).or_default() += 1);
            let most =
                counts.iter().max_by_key(|(_, n)| **n).filter(|(_, n)| **n * 2 > believed.len()).map(|(l, _)| *l);
            if most != leader {
                self.led_by(world, leader, since, *at, y);
                (since, leader) = (*at, most);
            }
        }
        self.led_by(world, leader, since, world.now, y);
    }

    fn led_by(&mut self, world: &World, leader: Option<HostId>, from: Duration, to: Duration, y: f64) {
        if from == to {
            return;
        }
        let colour = self.colour(leader);
        self.rect(from, to, y, LED, colour, " rx=\"3\"");
        if let Some(leader) = leader
            && self.x(to) - self.x(from) > 34.0
        {
            let middle = (self.x(from) + self.x(to)) / 2.0;
            let name = escaped(world.hosts[leader as usize].name.as_str());
            _ = writeln!(
                self.text,
                "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\" style=\"fill:#fff;font-weight:600\">{name}</text>",
                y + LED * 0.7
            );
        }
    }

    /// How many pairs are wrong, in proportion to the most.
    fn chart(&mut self, world: &World, y: f64) {
        let base = y + CHART;
        let most =
            world.watched.wrong.iter().map(|(_, wrong, outdated)| wrong.max(outdated)).max().unwrap_or(&0).max(&1);
        // Square roots: one that is wrong must not vanish beside a thousand.
        let height = |n: u64| (n as f64 / *most as f64).sqrt() * (CHART - 4.0);
        let mut path = |what: fn(&(Duration, u64, u64)) -> u64, fill: &str| {
            let mut d = format!("M{LEFT:.1} {base:.1}");
            let mut last = 0.0;
            for point in &world.watched.wrong {
                let (x, h) = (self.x(point.0), height(what(point)));
                _ = write!(d, "L{x:.1} {:.1}L{x:.1} {:.1}", base - last, base - h);
                last = h;
            }
            _ = write!(d, "L{:.1} {:.1}V{base:.1}Z", WIDTH - RIGHT, base - last);
            _ = writeln!(self.text, "<path d=\"{d}\" fill=\"{fill}\"/>");
        };
        path(|(_, _, outdated)| *outdated, "#f6d7a7");
        path(|(_, wrong, _)| *wrong, "#e5736b");
        _ = writeln!(
            self.text,
            "<text class=\"l\" x=\"{0}\" y=\"{1:.0}\">pairs wrong</text><text class=\"l\" x=\"{0}\" y=\"{2:.0}\">of at most {most}</text>",
            LEFT - 8.0,
            base - 24.0,
            base - 10.0
        );
    }

    fn lane(&mut self, world: &World, host: HostId, y: f64, height: f64) {
        let machine = &world.hosts[host as usize];
        let name = escaped(machine.name.as_str());
        let kind = if machine.gateway {
            " ◆"
        } else if machine.dialable {
            ""
        } else {
            " (NAT)"
        };
        _ = writeln!(
            self.text,
            "<text class=\"l\" x=\"{:.0}\" y=\"{:.1}\">{name}{kind}</text><path d=\"M{LEFT} {2:.1}H{3}\" stroke=\"#cfd8dc\" stroke-dasharray=\"1 3\"/>",
            LEFT - 8.0,
            y + height * 0.7,
            y + height / 2.0,
            WIDTH - RIGHT
        );
        let mut since: Option<(Duration, Lead)> = None;
        for (at, _, lead) in world.leads.changes().iter().filter(|(_, who, _)| *who == host) {
            self.believed(host, since, *at, y, height);
            since = lead.map(|lead| (*at, lead));
        }
        self.believed(host, since, world.now, y, height);
        for mark in world.watched.marks.iter().filter(|m| m.host == Some(host)) {
            self.mark(world, mark, y, height);
        }
    }

    /// Thick where the host believes to lead itself.
    fn believed(&mut self, host: HostId, since: Option<(Duration, Lead)>, to: Duration, y: f64, height: f64) {
        let Some((from, lead)) = since.filter(|(from, _)| *from < to) else { return };
        let thick = if lead.leader == Some(host) { 0.92 } else { 0.46 };
        let colour = self.colour(lead.leader);
        self.rect(from, to, y + height * (1.0 - thick) / 2.0, height * thick, colour, "");
    }

    fn mark(&mut self, world: &World, mark: &Mark, y: f64, height: f64) {
        let to = mark.to.unwrap_or(world.now).min(world.now);
        let x = self.x(mark.from);
        let middle = y + height / 2.0;
        let sign = match mark.kind {
            "hang" | "dark" | "partition" | "one-way" | "clock" => {
                let fill = format!("url(#{})", mark.kind);
                return self.rect(mark.from, to, y + 1.0, height - 2.0, &fill, " opacity=\".8\"");
            }
            "kill" | "churn" => format!("M{:.1} {:.1}l7 7m0 -7l-7 7", x - 3.5, middle - 3.5),
            "leave" => format!("M{x:.1} {:.1}v9m-3 -3l3 3l3 -3", middle - 4.5),
            "join" => format!("M{x:.1} {:.1}v-9m-3 3l3 -3l3 3", middle + 4.5),
            _ => format!("M{:.1} {middle:.1}l4 -4l4 4l-4 4z", x - 4.0),
        };
        _ = writeln!(self.text, "<path d=\"{sign}\" fill=\"none\" stroke=\"#111\" stroke-width=\"1.8\"/>");
    }

    fn everywhere(&mut self, mark: &Mark, top: f64, bottom: f64) {
        let (x, kind) = (self.x(mark.from), mark.kind);
        let colour = if kind == "heal" { "#2e7d32" } else { "#90a4ae" };
        if let Some(to) = mark.to.filter(|to| *to > mark.from) {
            let to = to.min(Duration::from_secs_f64(self.end));
            self.rect(mark.from, to, top - 14.0, 10.0, colour, " opacity=\".25\"");
        }
        _ = writeln!(
            self.text,
            "<path d=\"M{x:.1} {:.0}V{bottom:.0}\" stroke=\"{colour}\" stroke-dasharray=\"4 3\"/><text class=\"m\" x=\"{:.1}\" y=\"{:.0}\" \
             style=\"text-anchor:start;fill:{colour}\">{kind}</text>",
            top - 14.0,
            x + 3.0,
            top - 5.0
        );
    }

    fn legend(&mut self, world: &World, leaders: &[HostId], y: f64) {
        let mut x = LEFT;
        for leader in leaders.iter().take(LEADERS_MAX) {
            let (colour, name) = (self.colour(Some(*leader)), escaped(world.hosts[*leader as usize].name.as_str()));
            _ = writeln!(
                self.text,
                "<rect x=\"{x:.0}\" y=\"{:.0}\" width=\"12\" height=\"12\" rx=\"2\" fill=\"{colour}\"/><text x=\"{:.0}\" y=\"{y:.0}\">{name}</text>",
                y - 10.0,
                x + 17.0
            );
            x += 34.0 + 7.0 * name.len() as f64;
        }
        let (mut x, y) = (LEFT, y + 24.0);
        for (kind, words) in [
            ("hang", "stopped"),
            ("dark", "out of reach"),
            ("partition", "one side"),
            ("one-way", "one way"),
            ("clock", "clock off"),
        ] {
            _ = writeln!(
                self.text,
                "<rect x=\"{x:.0}\" y=\"{:.0}\" width=\"22\" height=\"12\" fill=\"url(#{kind})\" stroke=\"#b0bec5\"/><text x=\"{:.0}\" y=\"{y:.0}\">{words}</text>",
                y - 10.0,
                x + 28.0
            );
            x += 44.0 + 7.0 * words.len() as f64;
        }
        _ = writeln!(
            self.text,
            "<text x=\"{x:.0}\" y=\"{y:.0}\">✕ killed   ↓ left   ↑ joined   ◇ changed   ◆ gateway   thick: believes to lead itself   \
             grey: believes in no leader   dotted: does not run</text>"
        );
    }
}

#[cfg(test)]
mod tests {
    use crate::sim::report::Report;
    use crate::sim::run::simulate;
    use crate::sim::scenario::Scenario;

    #[test]
    fn a_drawing_has_a_lane_for_each_host_and_what_befell_it() {
        let text = "about = \"a < b\"\nnodes = 4\nheal_s = 10.0\nconverge_s = 2.0\n\
                    [[fault]]\nat_s = 3.0\nkind = \"hang\"\nhosts = [2]\nfor_s = 1.0\n";
        let scenario = Scenario::parse(text).expect("a scenario");
        let world = simulate(&scenario, 1, false).expect("runs");
        let drawing = super::draw(&world, &Report::of(&world, "test", 1));
        assert!(drawing.starts_with("<svg") && drawing.ends_with("</svg>\n"));
        assert!((0..4).all(|n| drawing.contains(&format!(">n{n}"))) && drawing.contains("a &lt; b"));
        assert_eq!(drawing.matches("url(#hang)").count(), 2, "in its lane and in the legend");
    }
}
