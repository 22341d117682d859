class LogStreamer {
  constructor(baseUrl, token) {
    this.baseUrl = baseUrl;
    this.token = token;
    this.eventSource = null;
  }
  connect(onLog, onError) {
    const url = `${this.baseUrl}/api/v1/logs/stream`;
    this.eventSource = new EventSource(url);
    this.eventSource.onopen = () => {
      console.log('Log stream connected');
    };
    this.eventSource.onmessage = (event) => {
      const log = JSON.parse(event.data);
      if (log.type === 'connected') {
        console.log('Log stream ready');
        return;
      }
      onLog(log);
    };
    this.eventSource.onerror = (error) => {
      console.error('Log stream error:', error);
      onError?.(error);
    };
  }
  disconnect() {
    this.eventSource?.close();
  }
}
// Usage
const streamer = new LogStreamer('http://localhost:7383', 'your-token');
streamer.connect(
  (log) => {
    const color = log.level === 'error' ? 'red' : 'inherit';
    console.log(`%c[${log.level}] ${log.message}`, `color: ${color}`);
  },
  (error) => {
    console.error('Stream error:', error);
  }
);
