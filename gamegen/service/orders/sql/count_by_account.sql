-- Unfinished orders of each account.
select account, count(*) as waiting from generations where finished_at is null group by account
