//! What happens on the platform: deposits, stakes, payouts, refunds, withdrawals, each as balanced postings.

use super::market::{Dice, selection};
use crate::core::time::Timestamp;
use rusqlite::{Connection, Statement};
use std::collections::VecDeque;

pub(super) const CURRENCIES: [&str; 3] = ["EUR", "GBP", "USD"];
/// The platform's own accounts, once per currency, in the order of their ids.
pub(super) const OWN_KINDS: [&str; 4] = ["house", "bonus", "tax", "bank"];
const HOUSE: i64 = 0;
const BONUS: i64 = 1;
const TAX: i64 = 2;
const BANK: i64 = 3;
pub(super) const FIRST_PLAYER: i64 = 1 + (CURRENCIES.len() * OWN_KINDS.len()) as i64;

/// Bets that wait for their event at any time.
const OPEN_BETS: usize = 400;

/// Most players pay in euro.
pub(super) fn currency_of(player: i64) -> i64 {
    match player % 8 {
        0..=4 => 0,
        5 | 6 => 1,
        _ => 2,
    }
}

pub(super) fn own_account(currency: i64, kind: i64) -> i64 {
    1 + currency * OWN_KINDS.len() as i64 + kind
}

#[derive(Clone, Copy)]
pub(super) struct OpenBet {
    id: i64,
    player: i64,
    stake_minor: i64,
    odds_milli: i64,
}

pub(super) struct Made {
    pub(super) id: i64,
    pub(super) postings: u64,
}

/// The ledger as one transaction sees it.
pub(super) struct Book<'a> {
    statements: Statements<'a>,
    dice: &'a mut Dice,
    open_bets: &'a mut VecDeque<OpenBet>,
    /// The present moment.
    pub(super) at: String,
}

struct Statements<'a> {
    balance: Statement<'a>,
    add_bet: Statement<'a>,
    settle_bet: Statement<'a>,
    add_transfer: Statement<'a>,
    add_posting: Statement<'a>,
    add_to_balance: Statement<'a>,
}

impl<'a> Statements<'a> {
    fn prepare(connection: &'a Connection) -> rusqlite::Result<Self> {
        Ok(Statements {
            balance: connection.prepare("select balance_minor from account where id = ?1")?,
            add_bet: connection.prepare(
                "insert into bet(reference, player, event, market, selection, odds_milli, stake_minor, placed_at)
                 values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?,
            settle_bet: connection.prepare("update bet set state = ?2, settled_at = ?3 where id = ?1")?,
            add_transfer: connection
                .prepare("insert into transfer(reference, kind, player, bet, made_at) values (?1, ?2, ?3, ?4, ?5)")?,
            add_posting: connection.prepare(
                "insert into posting(transfer, account_id, amount_minor, posted_at, memo) values (?1, ?2, ?3, ?4, ?5)",
            )?,
            add_to_balance: connection
                .prepare("update account set balance_minor = balance_minor + ?2 where id = ?1")?,
        })
    }
}

impl<'a> Book<'a> {
    /// Opens the book; the caller has begun a transaction on `connection` and commits it.
    pub(super) fn new(
        connection: &'a Connection,
        dice: &'a mut Dice,
        open_bets: &'a mut VecDeque<OpenBet>,
        at: Timestamp,
    ) -> rusqlite::Result<Self> {
        Ok(Book { statements: Statements::prepare(connection)?, dice, open_bets, at: at.to_string() })
    }

    /// What happens next on the platform; lost bets are settled on the way, they move no money.
    pub(super) fn transfer(&mut self, players: u64) -> rusqlite::Result<Made> {
        while self.open_bets.len() >= OPEN_BETS || (!self.open_bets.is_empty() && self.dice.percent(40)) {
            if let Some(made) = self.settle()? {
                return Ok(made);
            }
        }
        let player = FIRST_PLAYER + self.dice.skewed_below(players) as i64;
        let balance_minor: i64 = self.statements.balance.query_row([player], |row| row.get(0))?;
        if balance_minor < 1_000 {
            self.deposit(player)
        } else if balance_minor > 20_000 && self.dice.percent(30) {
            self.withdraw(player, balance_minor)
        } else {
            self.stake(player, balance_minor)
        }
    }

    fn deposit(&mut self, player: i64) -> rusqlite::Result<Made> {
        let amount_minor = 500 * (4 + self.dice.below(40)) as i64;
        let card = 1_000 + self.dice.below(9_000);
        let mut moves = vec![
            (self.own(player, BANK), -amount_minor, format!("Card payment **** {card}")),
            (player, amount_minor, format!("Deposit by card **** {card}")),
        ];
        if self.dice.percent(10) {
            let bonus_minor = amount_minor / 5;
            moves.push((self.own(player, BONUS), -bonus_minor, "Welcome back bonus 20 %".to_owned()));
            moves.push((player, bonus_minor, "Welcome back bonus 20 %".to_owned()));
        }
        self.record("deposit", player, None, &moves)
    }

    fn withdraw(&mut self, player: i64, balance_minor: i64) -> rusqlite::Result<Made> {
        let amount_minor = balance_minor / 1_000 * 500;
        let payee = self.dice.reference("SEPA");
        let moves = [
            (player, -amount_minor, format!("Withdrawal {payee}")),
            (self.own(player, BANK), amount_minor, format!("Pay-out {payee}")),
        ];
        self.record("withdrawal", player, None, &moves)
    }

    fn stake(&mut self, player: i64, balance_minor: i64) -> rusqlite::Result<Made> {
        let bet = selection(self.dice);
        let stake_minor = (50 * (2 + self.dice.skewed_below(100)) as i64).min(balance_minor);
        let reference = self.dice.reference("B-");
        let id = self.statements.add_bet.insert((
            &reference,
            player,
            &bet.event,
            bet.market,
            &bet.selection,
            bet.odds_milli,
            stake_minor,
            &self.at,
        ))?;
        self.open_bets.push_back(OpenBet { id, player, stake_minor, odds_milli: bet.odds_milli });
        let moves = [
            (player, -stake_minor, format!("Stake {reference} {}", bet.event)),
            (self.own(player, HOUSE), stake_minor, format!("Stake {reference}")),
        ];
        self.record("stake", player, Some(id), &moves)
    }

    /// Settles the bet that waits longest. `None` when no money moves.
    fn settle(&mut self) -> rusqlite::Result<Option<Made>> {
        let Some(bet) = self.open_bets.pop_front() else { return Ok(None) };
        let state = match self.dice.below(100) {
            0..=2 => "void",
            // The house keeps five per cent in the long run.
            _ if self.dice.below(bet.odds_milli as u64) < 950 => "won",
            _ => "lost",
        };
        self.statements.settle_bet.execute((bet.id, state, &self.at))?;
        let house = self.own(bet.player, HOUSE);
        match state {
            "void" => {
                let memo = format!("Refund of void bet {}", bet.id);
                let moves = [(house, -bet.stake_minor, memo.clone()), (bet.player, bet.stake_minor, memo)];
                self.record("refund", bet.player, Some(bet.id), &moves).map(Some)
            }
            "won" => {
                let payout_minor = bet.stake_minor * bet.odds_milli / 1_000;
                let tax_minor = (payout_minor - bet.stake_minor) / 20;
                let moves = [
                    (house, -payout_minor, format!("Payout of bet {} at {}", bet.id, bet.odds_milli)),
                    (bet.player, payout_minor - tax_minor, format!("Winnings of bet {}", bet.id)),
                    (self.own(bet.player, TAX), tax_minor, format!("Betting tax 5 % on bet {}", bet.id)),
                ];
                self.record("payout", bet.player, Some(bet.id), &moves).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn own(&self, player: i64, kind: i64) -> i64 {
        own_account(currency_of(player), kind)
    }

    fn record(
        &mut self,
        kind: &str,
        player: i64,
        bet: Option<i64>,
        moves: &[(i64, i64, String)],
    ) -> rusqlite::Result<Made> {
        let sum: i64 = moves.iter().map(|(_, amount_minor, _)| amount_minor).sum();
        assert_eq!(sum, 0, "a {kind} must balance");
        let reference = self.dice.reference("T-");
        let id = self.statements.add_transfer.insert((&reference, kind, player, bet, &self.at))?;
        for (account, amount_minor, memo) in moves {
            self.statements.add_posting.insert((id, account, amount_minor, &self.at, memo))?;
            self.statements.add_to_balance.execute((account, amount_minor))?;
        }
        Ok(Made { id, postings: moves.len() as u64 })
    }
}
