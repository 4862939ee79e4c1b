// The Node.js driver, unmodified: PUT, COPY INTO, and many bound rows, which it sends through a stage.
'use strict';
const snowflake = require('snowflake-sdk');

const env = process.env;
snowflake.configure({logLevel: 'OFF'});
const connection = snowflake.createConnection({
  account: 'hoopdev',
  accessUrl: `http://${env.HOOP_HOST}:${env.HOOP_PORT}`,
  username: 'whoever',
  authenticator: 'OAUTH',
  token: env.HOOP_TOKEN,
  database: 'PROD',
  schema: 'FEATURES',
});
const run = (sqlText, more = {}) =>
  new Promise((yes, no) =>
    connection.execute({sqlText, ...more, complete: (e, _, rows) => (e ? no(e) : yes(rows))}),
  );

(async () => {
  await new Promise((yes, no) => connection.connect((e) => (e ? no(e) : yes())));
  await run(`CREATE TABLE ${env.HOOP_TABLE} (ID NUMBER, LABEL VARCHAR)`);
  await run('CREATE TEMP STAGE by_hand FILE_FORMAT = (TYPE = CSV)');
  const put = await run(`PUT 'file://${env.HOOP_FOLDER}/*.csv' @by_hand`);
  await run(`COPY INTO ${env.HOOP_TABLE} FROM @by_hand`);
  const binds = Array.from({length: 40000}, (_, i) => [i, `label ${i}`]);
  await run(`INSERT INTO ${env.HOOP_TABLE} VALUES (?, ?)`, {binds});
  await new Promise((yes) => connection.destroy(yes));
  console.log(JSON.stringify(put.map((r) => [r.target, r.status])));
})().catch((e) => {
  console.error(e.code, e.message);
  process.exit(1);
});
