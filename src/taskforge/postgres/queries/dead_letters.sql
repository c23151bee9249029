-- Dead letters of a queue. Run by the app role under row-level security; the tenant is named all the same.

-- name: redrive
select taskforge.redrive($1, $2, $3, $4, $5);

-- name: purge
select taskforge.purge($1, $2, $3, $4, $5);
