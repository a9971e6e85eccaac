"""`mdkt bench`: what networks, engines and the node cost, measured."""
