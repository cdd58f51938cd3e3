const degrees = (event) => Number(event.queryStringParameters?.degrees);

const answer = (value) =>
  Number.isFinite(value) ? { degrees: value } : { statusCode: 400, body: 'Say ?degrees=NUMBER.\n' };

exports.toCelsius = async (event) => answer(((degrees(event) - 32) * 5) / 9);
exports.toFahrenheit = async (event) => answer((degrees(event) * 9) / 5 + 32);
