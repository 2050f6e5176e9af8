"""The main job on rendered data, and the page that tells of it. Above the other rooms: it trains and it draws."""
