-- One row, whose lock is the turn of the replica that makes the first keys or the first admin: there is nothing else to lock yet.
CREATE TABLE turn (one INTEGER PRIMARY KEY CHECK (one = 1));
INSERT INTO turn (one) VALUES (1);
