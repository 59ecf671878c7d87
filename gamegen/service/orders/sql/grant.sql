-- Adds credits to an account, once for each reference.
with entry as (
    insert into credits_ledger (account, generation_id, kind, millicredits)
    values (:account, :reference, 'grant', :millicredits)
    on conflict (generation_id, kind) do nothing
    returning millicredits
)
update accounts set balance_millicredits = balance_millicredits + (select sum(millicredits) from entry)
where id = :account and exists (select from entry)
