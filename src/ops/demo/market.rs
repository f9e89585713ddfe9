//! What the players of the demonstration bet on: repeatable chance, fixtures, markets, references.

/// Repeatable chance. Fast, and good enough to look real; never for keys.
pub(super) struct Dice(u64);

impl Dice {
    /// The throws that belong to `seed`.
    pub(super) fn new(seed: u64) -> Self {
        Dice(seed)
    }

    /// Any number (SplitMix64).
    pub(super) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "there is no number below zero");
        // The high half of a product: without the bias of a remainder that anybody could see here.
        ((u128::from(self.number()) * u128::from(bound)) >> 64) as u64
    }

    /// A number below `bound`, small ones far more often: a few players place most bets.
    pub(super) fn skewed_below(&mut self, bound: u64) -> u64 {
        let first = self.below(bound) + 1;
        self.below(first)
    }

    /// True in `percent` of all throws.
    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of the items.
    pub(super) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// A reference as a payment provider writes it: a prefix and twelve characters that cannot be misread.
    pub(super) fn reference(&mut self, prefix: &str) -> String {
        const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
        let mut bits = self.number();
        let mut reference = String::with_capacity(prefix.len() + 12);
        reference.push_str(prefix);
        for _ in 0..12 {
            reference.push(char::from(ALPHABET[(bits & 31) as usize]));
            bits >>= 5;
        }
        reference
    }
}

/// What one bet is on.
pub(super) struct Selection {
    pub(super) event: String,
    pub(super) market: &'static str,
    pub(super) selection: String,
    /// Decimal odds times 1,000.
    pub(super) odds_milli: i64,
}

/// What a player finds on the coupon.
pub(super) fn selection(dice: &mut Dice) -> Selection {
    let league = dice.pick(LEAGUES);
    let home = dice.below(league.len() as u64) as usize;
    let away = (home + 1 + dice.below(league.len() as u64 - 1) as usize) % league.len();
    let (home, away) = (league[home], league[away]);
    let (market, outcomes) = dice.pick(MARKETS);
    let selection = match *dice.pick(outcomes) {
        "1" => home.to_owned(),
        "2" => away.to_owned(),
        other => other.to_owned(),
    };
    // Bookmakers quote in steps: 1.05 to 2.50 mostly, now and then a long shot.
    let odds_milli = if dice.percent(85) { 1_050 + 50 * dice.below(30) } else { 2_500 + 250 * dice.below(50) };
    Selection { event: format!("{home} v {away}"), market, selection, odds_milli: odds_milli as i64 }
}

/// The name that a player registered with.
pub(super) fn player_name(dice: &mut Dice) -> String {
    format!("{}.{}{}", dice.pick(FIRST_NAMES), dice.pick(LAST_NAMES), dice.below(1_000))
}

type Market = (&'static str, &'static [&'static str]);

/// Markets and their outcomes; `1` and `2` stand for the home and the away team.
const MARKETS: &[Market] = &[
    ("Full-time result", &["1", "Draw", "2"]),
    ("Draw no bet", &["1", "2"]),
    ("Double chance", &["1 or draw", "2 or draw", "1 or 2"]),
    ("Total goals 2.5", &["Over 2.5", "Under 2.5"]),
    ("Total goals 3.5", &["Over 3.5", "Under 3.5"]),
    ("Both teams to score", &["Yes", "No"]),
    ("Half-time result", &["1", "Draw", "2"]),
    ("First goal", &["1", "2", "No goal"]),
    ("Correct score", &["1-0", "2-0", "2-1", "1-1", "0-0", "0-1", "0-2", "1-2", "3-1", "2-2"]),
    ("Corners 9.5", &["Over 9.5", "Under 9.5"]),
    ("Cards 4.5", &["Over 4.5", "Under 4.5"]),
];

/// Invented clubs; nobody's results are in here.
const LEAGUES: &[&[&str]] = &[
    &[
        "Ashford Rovers",
        "Brackwell Town",
        "Castleby United",
        "Dunmere Athletic",
        "Eastholm City",
        "Farrow Wanderers",
        "Grimsdale Albion",
        "Harrowgate Orient",
        "Ketterby County",
        "Larkhill Rangers",
        "Midwich Villa",
        "Northam Harriers",
    ],
    &[
        "FC Altmühlbrück",
        "SV Birkenwalde",
        "TSV Donauried",
        "Eintracht Elmstadt",
        "SpVgg Falkenrode",
        "VfB Grünhagen",
        "1. FC Heiderlau",
        "Union Königsforst",
        "SC Mühlberg",
        "Viktoria Ostermoor",
        "Rot-Weiß Sandau",
        "TuS Wiesenthal",
    ],
    &[
        "AC Belvento",
        "Calcio Montegrigio",
        "US Fontenera",
        "Virtus Lagoscuro",
        "SS Pietralba",
        "Olympia Riomare",
        "CD Altamira del Sur",
        "Real Peñaclara",
        "UD Valdemora",
        "Atlético Sierraviento",
        "SD Puerto Niebla",
        "CF Torrehermosa",
    ],
];

const FIRST_NAMES: &[&str] = &[
    "amelia", "bruno", "carla", "dmitri", "elena", "fatima", "goran", "hanna", "ines", "jonas", "katya", "liam",
    "maja", "niko", "olga", "pavel", "quentin", "rosa", "samir", "tove", "ulrich", "vera", "wojtek", "yusuf", "zoe",
];

const LAST_NAMES: &[&str] = &[
    "adler",
    "bianchi",
    "costa",
    "dubois",
    "eriksen",
    "fischer",
    "garcia",
    "horvat",
    "ivanova",
    "jensen",
    "kovacs",
    "lindqvist",
    "moreau",
    "novak",
    "oconnor",
    "petrov",
    "quinn",
    "rossi",
    "silva",
    "tanaka",
    "urban",
    "vogel",
    "weber",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_repeatable_and_stays_in_bounds() {
        let throws = |seed| {
            let mut dice = Dice::new(seed);
            (0..1_000).map(|_| dice.below(7)).collect::<Vec<_>>()
        };
        assert_eq!(throws(1), throws(1));
        assert_ne!(throws(1), throws(2));
        for face in 0..7 {
            let count = throws(3).iter().filter(|throw| **throw == face).count();
            assert!((90..200).contains(&count), "{face} came {count} times in 1,000");
        }
        assert!(throws(1).iter().all(|throw| *throw < 7));
    }

    #[test]
    fn nobody_plays_against_himself() {
        let mut dice = Dice::new(9);
        for _ in 0..2_000 {
            let bet = selection(&mut dice);
            let (home, away) = bet.event.split_once(" v ").unwrap();
            assert_ne!(home, away);
            assert!((1_050..=15_000).contains(&bet.odds_milli), "{}", bet.odds_milli);
        }
    }
}
