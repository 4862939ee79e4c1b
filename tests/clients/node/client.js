// The Node.js driver, unmodified: told where Hoop is and given a token, and nothing else.
'use strict';
const snowflake = require('snowflake-sdk');
const {randomUUID} = require('node:crypto');

const env = process.env;
snowflake.configure({logLevel: 'OFF'});

const say = (step, facts) => console.log(JSON.stringify({step, ...facts}));

function connection(more = {}) {
  return snowflake.createConnection({
    account: 'hoopdev',
    accessUrl: `http://${env.HOOP_HOST}:${env.HOOP_PORT}`,
    username: 'whoever',
    authenticator: 'OAUTH',
    token: env.HOOP_TOKEN,
    database: 'PROD',
    schema: 'CRM',
    ...more,
  });
}

const connect = (c) => new Promise((yes, no) => c.connect((e) => (e ? no(e) : yes(c))));
const close = (c) => new Promise((yes, no) => c.destroy((e) => (e ? no(e) : yes())));
const plain = (v) => (v instanceof Date ? v.toISOString() : Buffer.isBuffer(v) ? v.toString('hex') : v);
const fault = (e) => ({code: e.code, sqlstate: e.sqlState, message: e.message});

/** Run one statement to its end. */
function run(c, sqlText, more = {}) {
  return new Promise((yes, no) =>
    c.execute({
      sqlText,
      ...more,
      complete: (e, statement, rows) => (e ? no(e) : yes({statement, rows})),
    }),
  );
}

const table = (rows) => rows.map((r) => Object.values(r).map(plain));
const columns = (s) =>
  s.getColumns().map((k) => [k.getName(), k.getType(), k.getPrecision(), k.getScale(), k.isNullable()]);

async function failing(work) {
  try {
    await work();
  } catch (e) {
    return fault(e);
  }
  return {code: '0', message: 'it went through'};
}

async function large(c) {
  const {statement} = await run(c, 'SELECT CUSTOMER_ID, EMAIL FROM CUSTOMERS', {streamResult: true});
  const seen = {rows: 0, sum: 0, clear: 0};
  for await (const row of statement.streamRows()) {
    seen.rows += 1;
    seen.sum += row.CUSTOMER_ID;
    seen.clear += row.EMAIL.startsWith('***@') ? 0 : 1;
  }
  say('large', seen);
}

async function binds(c) {
  const values = ['Zoë 🚀', 7, 2.5, true, null, new Date(Date.UTC(2024, 1, 29))];
  const asked = await run(c, 'SELECT ? AS A, ? AS B, ? AS C, ? AS D, ? AS E, ?::TIMESTAMP_NTZ AS F', {
    binds: values,
  });
  const numbered = await run(c, 'SELECT :2 AS A, :1 AS B, :2 AS C', {binds: ['one', 'two']});
  say('binds', {asked: table(asked.rows), numbered: table(numbered.rows)});
  const sql = 'INSERT INTO PROD.FEATURES.CHURN_STAGING (CUSTOMER_ID, SCORE, COMPUTED_AT) VALUES (?, ?, ?)';
  const rows = [];
  for (let i = 0; i < 300; i += 1) rows.push([910000 + i, i % 2 ? null : i / 4, '2024-02-29 10:00:00']);
  const inserted = await run(c, sql, {binds: rows});
  const back = await run(
    c,
    'SELECT COUNT(*) AS N, COUNT(SCORE) AS S, MAX(CUSTOMER_ID) AS M FROM PROD.FEATURES.CHURN_STAGING ' +
      'WHERE CUSTOMER_ID >= 910000 AND CUSTOMER_ID < 910300',
  );
  const gone = await run(c, 'DELETE FROM PROD.FEATURES.CHURN_STAGING WHERE CUSTOMER_ID BETWEEN ? AND ?', {
    binds: [910000, 910299],
  });
  say('arrays', {
    inserted: table(inserted.rows),
    updated: inserted.statement.getNumUpdatedRows(),
    back: table(back.rows),
    deleted: gone.statement.getNumUpdatedRows(),
  });
}

/** The driver names its request, or the query's id once it knows it: two endpoints. */
async function cancels(c) {
  let waiting;
  const ended = new Promise((done) => {
    waiting = c.execute({sqlText: env.SQL_SLOW, complete: (e) => done(e ? fault(e) : {code: '0'})});
  });
  await new Promise((go) => setTimeout(go, 700));
  const cancel = (s) => new Promise((done) => s.cancel((e) => done(e ? fault(e) : {code: '0'})));
  const answer = await cancel(waiting);
  const detached = await new Promise((yes, no) =>
    c.execute({
      sqlText: `${env.SQL_SLOW} + 1`,
      asyncExec: true,
      complete: (e, s) => (e ? no(e) : yes(s)),
    }),
  );
  const queryId = detached.getQueryId();
  const before = await c.getQueryStatus(queryId);
  const answered = await cancel(detached);
  const after = await run(c, 'SELECT 1 AS A');
  say('cancel', {
    request: {...(await ended), answer: answer.code},
    id: {answer: answered.code, before, status: await c.getQueryStatus(queryId)},
    after: table(after.rows),
  });
}

async function asynchronous(c) {
  const queryId = await new Promise((yes, no) =>
    c.execute({
      sqlText: 'SELECT CUSTOMER_ID, SSN FROM CUSTOMERS WHERE CUSTOMER_ID < 3 ORDER BY 1',
      asyncExec: true,
      complete: (e, statement) => (e ? no(e) : yes(statement.getQueryId())),
    }),
  );
  const got = await c.getResultsFromQueryId({queryId});
  const rows = [];
  for await (const row of got.streamRows()) rows.push(row);
  const status = await c.getQueryStatus(queryId);
  const unknown = await c.getQueryStatus(randomUUID());
  const stranger = await failing(() => c.getResultsFromQueryId({queryId: randomUUID()}));
  say('async', {rows: table(rows), status, unknown, stranger});
}

async function main() {
  const c = await connect(connection({queryTag: 'from node', clientSessionKeepAlive: true}));
  const wide = await run(c, env.SQL_WIDE);
  say('wide', {columns: columns(wide.statement), rows: table(wide.rows)});
  const texts = await run(c, env.SQL_WIDE, {fetchAsString: ['Number', 'Date', 'JSON', 'Buffer', 'Boolean']});
  say('texts', {rows: table(texts.rows)});
  await large(c);
  await binds(c);
  say('denied', await failing(() => run(c, 'SELECT * FROM PROD.HR.SALARIES')));
  const several = {parameters: {MULTI_STATEMENT_COUNT: 2}};
  say('several', await failing(() => run(c, 'SELECT 1; SELECT 2', several)));
  const held = await run(c, env.SQL_HELD);
  say('held', {rows: table(held.rows)});
  const described = await run(c, 'SELECT SSN, CUSTOMER_ID FROM CUSTOMERS WHERE CUSTOMER_ID = ?', {
    describeOnly: true,
    binds: [1],
  });
  say('described', {columns: columns(described.statement), rows: described.rows.length});
  await run(c, "ALTER SESSION SET QUERY_TAG = 'nightly'");
  await cancels(c);
  await asynchronous(c);
  say('alive', {valid: await c.isValidAsync(), up: c.isUp()});
  await close(c);
  say('closed', {valid: await c.isValidAsync()});
}

main().catch((e) => {
  console.error(fault(e), e.stack);
  process.exit(1);
});
