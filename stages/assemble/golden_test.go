package assemble

// goldenTables is the encoding of debianTables.
const goldenTables = "1:" +
	"ZNJtToNAEMbxGRZj9RYeoGndnb4dZ6FESRGaBeT6Bkz0T/rtebYz098HNMtT1w2ymaZpe41DfHt8yVxRt89jn3ZF3aqrhlIy" +
	"19TF8tTUhf4uqEtjq3nTlTeRLO+Lut3ME/2yNXzdRd3YJ52vic4HRJcp0af+M6ZK3bUr9eUey1v8qLZ7+c/voq9/ec+y+sWz" +
	"BBZjObAcWU4sZ5YLNPwbT42nxq/GqPHUeGo8NZ4aT42nhpcDNYGaQE1Y7VATqAnUBGoCNYEaHjNqjBqjxqix1QFqjBqjxqgx" +
	"ag7IR+QT8hn5IiKi7jumbP6a810aW5GfAQA"
