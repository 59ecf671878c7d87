-- Locks accounts and reads their balances: two submissions of one account take turns, so that the second
-- sees the requests of the first.
select id, balance_millicredits from accounts where id = any(cast(:accounts as text[]))
order by id for no key update
